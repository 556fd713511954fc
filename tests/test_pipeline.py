"""The whole program on small models and on the embedded one: what a user is promised."""

import contextlib
import functools
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models_for_tests
import numpy as np
import odd_models_for_tests
import onnx
import pytest
from models_for_tests import photo, run_model
from numpy.typing import NDArray

from onnx_lowrank import Result, compress
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import plan_only, prepare
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.report.schema import SiteReport
from onnx_lowrank.stages.plan import choose, layers_to_choose, site_energies
from onnx_lowrank.stages.profile import positions_per_sample
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import steps

MODELS = Path(__file__).resolve().parents[1] / "models"
MNIST = MODELS / "mnist_vgg.onnx"
CALIBRATION = MODELS / "mnist_calib.npz"
TEST = MODELS / "mnist_test.npz"

Array = NDArray[Any]

ROUND_OFF = 2e-5
"""Of the largest output: a few dozen float32 roundings through a dozen layers."""

# Runs that share two cores: threads that wait for one another by spinning would only take them from each other.
run = functools.partial(compress, threads=1)

builders = pytest.mark.parametrize("builder", odd_models_for_tests.ALL.values(), ids=odd_models_for_tests.ALL)


def test_what_was_prepared_can_be_planned_again_and_the_steps_hold_only_what_their_plan_asks_for() -> None:
    run = Run.start(Request(MNIST, CALIBRATION, Options(speedup=3.0, threads=1)))
    with contextlib.ExitStack() as stack:
        prepared = prepare(run, stack)
    counted, profiled = prepared.counted, prepared.profiled
    layers = layers_to_choose(site_energies(counted, profiled, run.kinds), counted.shapes, 1)
    assert choose(layers, sum(counted.macs.aimed_at.values()), run.options) == prepared.planned.plan
    assert prepared.without_rows().profiled.targets == {} == prepared.without_rows().profiled.kernels
    assert [step.output for step in steps(run, prepared)] == [
        site.output for site in counted.sites if prepared.planned.plan[site.name].form
    ] + [layer.output for layer in counted.dense]


def test_rows_grow_with_the_filters_and_small_kernels_have_some_more() -> None:
    """Where the maps and the memory have room for them; in half the memory there are half of them."""
    shapes = {"narrow": (64, 64, 3, 3), "wide": (512, 512, 3, 3), "wider": (700, 512, 3, 3), "flat": (2048, 256, 1, 1)}
    sites: Any = [SimpleNamespace(name=name, kernel=np.empty(shape, bool)) for name, shape in shapes.items()]
    sizes = dict.fromkeys(shapes, (100, 100))
    rows = {name: 100 * count for name, count in positions_per_sample(sites, sizes, 100, 1 << 40).items()}
    assert rows == {"narrow": 30_000, "wide": 50 * 512, "wider": 50 * 700, "flat": 40_000}
    needed = sum(4 * rows[site.name] * len(site.kernel) for site in sites)
    assert positions_per_sample(sites, sizes, 100, needed // 2) == {name: n // 200 for name, n in rows.items()}
    assert set(positions_per_sample(sites, dict.fromkeys(shapes, (7, 3)), 100, 1 << 40).values()) == {21}


def photos(count: int) -> Array:
    return photo(7, (count, 3, 12, 10))


def full_rank(sites: Sequence[SiteReport], form: str) -> Plan:
    """A plan that factorises every site and loses nothing."""

    def choice(site: SiteReport) -> SitePlan:
        c, d = site.channels
        shape = ConvShape(d, c, site.kernel, (1, 1), (1, 1))
        kind = FORMS[form] if FORMS[form].takes(shape) else FORMS["channel"]
        return SitePlan(site.name, kind.name, kind.highest_ranks(shape))

    return Plan(tuple(choice(site) for site in sites))


def same_answers(one: onnx.ModelProto, other: onnx.ModelProto, tolerance: float) -> None:
    """Compare all outputs on photos of a size and number that no run has seen."""
    feeds = {"x": photo(99, (3, 3, 12, 10))}
    expected = run_model(one, feeds)
    for name, found in run_model(other, feeds).items():
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=tolerance * np.abs(expected[name]).max())


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
    """Of the logits on the test images, which no part of a run has seen."""
    images, reference = unseen()
    logits = run_model(result.model, {"input": images})["logits"]
    return float(np.square(logits - reference).sum() / np.square(reference).sum())


@builders
@pytest.mark.parametrize("form", ["channel", "spatial", "3d", "cp"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_full_rank_reproduces_the_model(builder: Any, form: str, symmetric: bool) -> None:
    model = builder()
    sites = plan_only(Request(model, photos(2), options=Options(speedup=1, threads=1))).sites
    result = run(model, photos(6), plan=full_rank(sites, form), symmetric=symmetric)
    assert result.report.sites and not any(site.kept for site in result.report.sites)
    same_answers(model, result.model, ROUND_OFF)


@pytest.mark.parametrize("form", ["channel", "spatial", "3d", "cp"])
@pytest.mark.parametrize("solver", ["nonlinear", "linear", "weights"])
def test_full_rank_reproduces_the_embedded_model(form: str, solver: str) -> None:
    sites = plan_only(Request(MNIST, CALIBRATION, options=Options(speedup=1, images=2, threads=1))).sites
    result = mnist(plan=full_rank(sites, form), solver=solver, images=60)
    assert relative_error(result) < ROUND_OFF**2


@builders
def test_speedup_1_leaves_the_network_as_it_is(builder: Any) -> None:
    model = builder()
    result = run(model, photos(3), speedup=1)
    assert all(site.kept for site in result.report.sites)
    assert result.report.speedup.macs == 1
    same_answers(model, result.model, ROUND_OFF)


def test_without_batch_normalisation_speedup_1_leaves_every_bit_as_it_is() -> None:
    model = models_for_tests.residual()
    result = run(model, photos(3), speedup=1)
    assert list(result.model.graph.node) == list(model.graph.node)
    same_answers(model, result.model, 0)


@builders
@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_any_number_of_photos_will_do(builder: Any, count: int) -> None:
    model = builder()
    result = run(model, photos(count), speedup=1.2)
    assert result.report.data["calibration"] + result.report.data["validation"] == count
    assert (result.report.data["validation"] == 0) == (count < 6)
    assert bool(result.report.warnings) == (count < 6)
    assert all(np.isfinite(output.relative_error) for output in result.report.outputs.values())
    assert result.report.speedup.macs >= 1.2


@builders
@pytest.mark.parametrize("symmetric", [False, True])
def test_branches_and_shortcuts_are_walked(builder: Any, symmetric: bool) -> None:
    model = builder()
    plan = plan_only(Request(model, photos(40), options=Options(speedup=1.2, threads=1))).plan
    result = run(model, photos(40), plan=plan, symmetric=symmetric)
    report = result.report
    assert any(not site.kept for site in report.sites)
    assert report.speedup.macs == pytest.approx(report.macs.conv_before / report.macs.conv_after)
    error, blind = (
        max(output.relative_error for output in outputs.values())
        for outputs in (report.outputs, run(model, photos(40), plan=plan, solver="weights").report.outputs)
    )
    assert error < 0.9 * blind
    onnx.checker.check_model(result.model, full_check=True)
    assert [value.name for value in result.model.graph.output] == [value.name for value in model.graph.output]


@pytest.mark.parametrize("count", [7, 12, 16, 20])
def test_a_batch_size_that_the_model_demands(count: int) -> None:
    model = models_for_tests.build(
        [
            models_for_tests.conv("conv1", "x", "w1", "c1"),
            models_for_tests.relu("c1", "r1"),
            models_for_tests.conv("conv2", "r1", "w2", "y"),
        ],
        {"w1": models_for_tests.weights(1, 8, 3, 3, 3), "w2": models_for_tests.weights(2, 8, 8, 3, 3)},
        input_shape=(4, 3, 12, 10),
        output_shape=(4, 8, 12, 10),
    )
    report = run(model, photos(count), speedup=1.3).report
    assert report.data["calibration"] % 4 == report.data["validation"] % 4 == 0
    assert (report.data["validation"] > 0) == (count >= 12)


def test_a_single_response_per_layer_is_enough() -> None:
    model = models_for_tests.build(
        [
            models_for_tests.conv("conv1", "x", "w1", "c1", pads=[0] * 4),
            models_for_tests.relu("c1", "r1"),
            models_for_tests.conv("conv2", "r1", "w2", "y", pads=[0] * 4),
        ],
        {"w1": models_for_tests.weights(1, 8, 3, 12, 10), "w2": models_for_tests.weights(2, 8, 8, 1, 1)},
    )
    report = run(model, photos(1), speedup=1.01).report
    assert np.isfinite(report.outputs["y"].relative_error)


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


def test_at_4_times_the_embedded_model_is_nearly_as_accurate() -> None:
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
    best = relative_error(mnist_at(4, form=form))
    assert (
        best
        < relative_error(mnist_at(4, form=form, solver="linear"))
        < relative_error(mnist_at(4, form=form, solver="linear", symmetric=True))
    )
    assert best < relative_error(mnist_at(4, form=form, symmetric=True))


def test_made_up_images_are_said_to_be() -> None:
    warnings: list[str] = []
    made_up = mnist(data=None, preprocess="unit", images=10, warn=warnings.append)
    assert made_up.report.data["synthetic"]
    assert len(warnings) == 1 and "made-up" in warnings[0] and "--data" in warnings[0]
    assert made_up.report.warnings == tuple(warnings)


@pytest.mark.parametrize("form", ["auto", "channel"])
def test_made_up_images_beat_no_images(form: str) -> None:
    made_up = mnist(data=None, preprocess="unit", speedup=4, form=form)
    assert relative_error(made_up) < relative_error(mnist_at(4, form=form, solver="weights"))


@pytest.mark.parametrize("form", ["channel", "auto"])
@pytest.mark.parametrize("images", [4, 8])
def test_few_images_are_no_worse_asymmetric_than_symmetric(form: str, images: int) -> None:
    asymmetric, symmetric = (
        sum(relative_error(mnist(images=images, seed=seed, form=form, symmetric=which)) for seed in range(8))
        for which in (False, True)
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
    run(model, photos(3), speedup=1.3)
    assert model.SerializeToString(deterministic=True) == serialised


def test_a_saved_plan_gives_the_same_model() -> None:
    plan = plan_only(Request(MNIST, CALIBRATION, options=Options(images=40, threads=1))).plan
    replayed = mnist(plan=Plan.from_json(plan.to_json()), images=40)
    searched = mnist(images=40)
    assert replayed.model.SerializeToString(deterministic=True) == searched.model.SerializeToString(deterministic=True)
