"""The promises of the whole program on the embedded model: speedups that are reached, and errors that are small."""

import functools
import hashlib
import math
from pathlib import Path
from typing import Any

import models_for_tests
import numpy as np
import onnx
import pytest
from forms_for_tests import full_rank
from models_for_tests import photo, run_model
from numpy.typing import NDArray

from onnx_lowrank import Result, compress
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import plan_only
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.request import Request

MODELS = Path(__file__).resolve().parents[1] / "models"
MNIST = MODELS / "mnist_vgg.onnx"
CALIBRATION = MODELS / "mnist_calib.npz"
TEST = MODELS / "mnist_test.npz"

Array = NDArray[Any]

ROUND_OFF = 2e-5
"""A few dozen float32 roundings through a dozen layers, relative to the largest output."""

# Runs share two cores: threads that wait for one another by spinning would only take them from each other.
run = functools.partial(compress, threads=1)


def mnist(**options: Any) -> Result:
    """The embedded model, calibrated as in the README unless the options say otherwise."""
    return run(str(MNIST), options.pop("data", CALIBRATION), **options)


@functools.cache
def mnist_at(speedup: float, **options: Any) -> Result:
    return mnist(speedup=speedup, **options)


@functools.cache
def unseen() -> tuple[Array, Array]:
    """Test images, and the original's logits."""
    with np.load(TEST) as arrays:
        images = arrays["input"]
    return images, run_model(onnx.load(str(MNIST)), {"input": images})["logits"]


def conv_macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of the convolutions, from the shapes that onnx infers."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.value_info, *inferred.output)}
    kernels = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return sum(
        math.prod(kernels[node.input[1]]) * math.prod(side.dim_value for side in shapes[node.output[0]][2:])
        for node in model.graph.node
        if node.op_type == "Conv"
    )


def relative_error(result: Result) -> float:
    """The relative error of the logits on the test images, which no part of a run has seen."""
    images, reference = unseen()
    logits = run_model(result.model, {"input": images})["logits"]
    return float(np.square(logits - reference).sum() / np.square(reference).sum())


@pytest.mark.parametrize("form", FORMS.names)
@pytest.mark.parametrize("solver", ["nonlinear", "linear", "weights"])
def test_full_rank_reproduces_the_model(form: str, solver: str) -> None:
    sites = plan_only(Request(MNIST, CALIBRATION, options=Options(speedup=1, images=2, threads=1))).sites
    result = mnist(plan=full_rank(sites, form), solver=solver, images=60)
    assert relative_error(result) < ROUND_OFF**2


@pytest.mark.parametrize("form", ["auto", "channel"])
@pytest.mark.parametrize("speedup", [2, 3, 4, 5, 8])
def test_the_speedup_is_reached_and_not_overshot(speedup: float, form: str) -> None:
    result = mnist(speedup=speedup, form=form, images=100)
    before, after = conv_macs(onnx.load(str(MNIST))), conv_macs(result.model)
    assert speedup <= before / after <= 1.01 * speedup
    assert (result.report.macs.conv_before, result.report.macs.conv_after) == (before, after)


@pytest.mark.parametrize("ranks", ["exact", "greedy", "uniform"])
def test_ranks_are_multiples_and_the_speedup_is_reached_all_the_same(ranks: str) -> None:
    options = Options(speedup=2.5, ranks=ranks, rank_multiple=8, images=20, threads=1)
    planned = plan_only(Request(MNIST, CALIBRATION, options=options, preprocess="unit"))
    chosen = [rank for site in planned.plan.sites for rank in site.ranks]
    assert chosen and all(rank % 8 == 0 for rank in chosen)
    assert planned.speedup.macs >= 2.5


def test_at_4_times_the_model_is_nearly_as_accurate() -> None:
    accuracy = mnist(speedup=4, test=TEST).report.accuracy
    assert accuracy is not None and accuracy.samples == 1500
    assert accuracy.after >= accuracy.before - 0.005


def test_the_seed_decides_every_byte() -> None:
    one, same, other = (
        mnist(speedup=4, images=40, seed=seed).model.SerializeToString(deterministic=True) for seed in (0, 0, 1)
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize("form", ["auto", "channel"])
def test_the_nonlinear_asymmetric_solution_is_the_best(form: str) -> None:
    at = functools.partial(mnist_at, 4, form=form, objective="energies", width="none")  # all have the same plan
    best = relative_error(at())
    assert best < relative_error(at(solver="linear")) < relative_error(at(solver="linear", symmetric=True))
    assert best < relative_error(at(symmetric=True))


def test_the_user_is_warned_of_made_up_images() -> None:
    warnings: list[str] = []
    made_up = mnist(data=None, preprocess="unit", images=10, warn=warnings.append)
    assert made_up.report.data["synthetic"]
    assert len(warnings) == 1 and "made-up" in warnings[0] and "--data" in warnings[0]
    assert made_up.report.warnings == tuple(warnings)


@pytest.mark.parametrize("form", ["auto", "channel"])
def test_made_up_images_beat_no_images(form: str) -> None:
    made_up = mnist(data=None, preprocess="unit", speedup=4, form=form)
    assert relative_error(made_up) < relative_error(mnist_at(4, form=form, solver="weights", require="none"))


@pytest.mark.parametrize("form", ["channel", "auto"])
@pytest.mark.parametrize("images", [4, 8])
def test_few_images_are_no_worse_asymmetric_than_symmetric(form: str, images: int) -> None:
    asymmetric, symmetric = (
        sum(
            relative_error(mnist(images=images, seed=seed, form=form, symmetric=flag, width="none"))
            for seed in range(8)
        )
        for flag in (False, True)
    )
    assert asymmetric <= 1.05 * symmetric


def test_where_activations_are_kept_changes_nothing_but_the_time() -> None:
    large = mnist(speedup=4, images=60)
    small = mnist(speedup=4, images=60, memory=512 << 20)  # enough for all rows, and for no activations
    assert small.model.SerializeToString(deterministic=True) == large.model.SerializeToString(deterministic=True)
    assert large.report.cost.forward_passes < 2.2
    assert small.report.cost.forward_passes < 2.5


def test_little_memory_means_fewer_rows_not_more_memory() -> None:
    small, large = (mnist(speedup=4, images=60, memory=memory) for memory in (4 << 20, 1 << 32))
    assert 0 < small.report.cost.rows_per_site < large.report.cost.rows_per_site / 2
    blind = relative_error(mnist_at(4, solver="weights"))
    assert relative_error(large) < relative_error(small) < blind / 5


def test_calibration_takes_two_passes() -> None:
    assert mnist_at(4).report.cost.forward_passes < 2.2


def test_the_input_is_left_alone() -> None:
    before = hashlib.sha256(MNIST.read_bytes()).hexdigest()
    result = mnist_at(4)
    assert hashlib.sha256(MNIST.read_bytes()).hexdigest() == before == result.report.input.sha256
    model = models_for_tests.plain()
    serialised = model.SerializeToString(deterministic=True)
    run(model, photo(7, (3, 3, 12, 10)), speedup=1.3)
    assert model.SerializeToString(deterministic=True) == serialised


def test_a_saved_plan_gives_the_same_model() -> None:
    plan = plan_only(Request(MNIST, CALIBRATION, options=Options(images=40, threads=1))).plan
    replayed = mnist(plan=Plan.from_json(plan.to_json()), images=40)
    searched = mnist(images=40)
    assert replayed.model.SerializeToString(deterministic=True) == searched.model.SerializeToString(deterministic=True)
