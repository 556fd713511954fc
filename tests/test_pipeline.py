"""The promises of the whole program, on small models of every kind."""

import contextlib
import functools
from types import SimpleNamespace
from typing import Any

import models_for_tests
import numpy as np
import odd_models_for_tests
import onnx
import pytest
from forms_for_tests import full_rank
from models_for_tests import photo, run_model
from numpy.typing import NDArray

from onnx_lowrank import compress
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import plan_only, prepare
from onnx_lowrank.stages.choices import choose, layers_to_choose, site_energies
from onnx_lowrank.stages.positions import positions_per_sample
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import steps

Array = NDArray[Any]

ROUND_OFF = 2e-5
"""A few dozen float32 roundings through a dozen layers, relative to the largest output."""

# Runs share two cores: threads that wait for one another by spinning would only take them from each other.
run = functools.partial(compress, threads=1)

builders = pytest.mark.parametrize("builder", odd_models_for_tests.ALL.values(), ids=odd_models_for_tests.ALL)


def photos(count: int) -> Array:
    return photo(7, (count, 3, 12, 10))


def same_answers(one: onnx.ModelProto, other: onnx.ModelProto, tolerance: float) -> None:
    """Compare all outputs on photos of a size and number that no run has seen."""
    feeds = {"x": photo(99, (3, 3, 12, 10))}
    expected = run_model(one, feeds)
    for name, answer in run_model(other, feeds).items():
        np.testing.assert_allclose(answer, expected[name], rtol=0, atol=tolerance * np.abs(expected[name]).max())


@builders
@pytest.mark.parametrize("form", FORMS.names)
@pytest.mark.parametrize("symmetric", [False, True])
def test_full_rank_reproduces_the_model(builder: Any, form: str, symmetric: bool) -> None:
    model = builder()
    sites = plan_only(Request(model, photos(2), options=Options(speedup=1, threads=1))).sites
    result = run(model, photos(6), plan=full_rank(sites, form), symmetric=symmetric)
    assert result.report.sites and not any(site.kept for site in result.report.sites)
    same_answers(model, result.model, ROUND_OFF)


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
    result = run(model, photos(count), speedup=1.2, require="none")
    assert result.report.data["calibration"] + result.report.data["validation"] == count
    assert (result.report.data["validation"] == 0) == (count < 6)
    usual = ("the result is ", "the weight of ")  # of random weights at their speedup, and of weights that stay
    others = [text for text in result.report.warnings if not text.startswith(usual)]
    assert bool(others) == (count < 6)
    assert all(np.isfinite(output.relative_error) for output in result.report.outputs.values())
    assert result.report.speedup.macs >= 1.2


@builders
@pytest.mark.parametrize("symmetric", [False, True])
def test_branches_and_shortcuts_are_walked(builder: Any, symmetric: bool) -> None:
    model = builder()
    # Inputs that are noise leave little to save in the first convolution, which is an expensive one in these networks.
    options = Options(speedup=1.2, threads=1, exclude="^(conv1|stem)$")
    plan = plan_only(Request(model, photos(40), options=options)).plan
    # Random weights hold nothing that a low rank would keep: any result will do.
    toy = functools.partial(run, model, photos(40), plan=plan, require="none")
    result = toy(symmetric=symmetric)
    report = result.report
    assert any(not site.kept for site in report.sites)
    assert report.speedup.macs == pytest.approx(report.macs.conv_before / report.macs.conv_after)
    error, blind = (
        max(output.relative_error for output in outputs.values())
        for outputs in (report.outputs, toy(solver="weights").report.outputs)
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


def test_a_prepared_run_can_be_planned_again_and_its_steps_follow_the_plan() -> None:
    request = Request(models_for_tests.classifier("transB 1"), photos(20), Options(speedup=1.5, threads=1))
    run = Run.start(request)
    with contextlib.ExitStack() as stack:
        prepared = prepare(run, stack)
    counted, profiled = prepared.counted, prepared.profiled
    layers = layers_to_choose(site_energies(counted, profiled, run.kinds), counted, prepared.reach.multiple)
    all_macs = sum(counted.macs.aimed_at.values())
    assert choose(layers, all_macs, run.options.speedup, run.options.ranks) == prepared.planned.plan
    factorised = [site.output for site in counted.sites if prepared.planned.plan[site.name].form]
    assert [step.outputs[0] for step in steps(run, prepared)] == factorised + [layer.output for layer in counted.dense]


def test_rows_grow_with_the_filters_and_small_kernels_have_some_more() -> None:
    """The maps and the memory have room for all rows; half the memory holds half of them."""
    shapes = {"narrow": (64, 64, 3, 3), "wide": (512, 512, 3, 3), "wider": (700, 512, 3, 3), "flat": (2048, 256, 1, 1)}
    sites: Any = [
        SimpleNamespace(name=name, kernel=np.empty(shape, bool), depthwise=False) for name, shape in shapes.items()
    ]
    families, sizes = [Family((site,)) for site in sites], dict.fromkeys(shapes, (100, 100))
    ones = np.ones(100)
    rows = {name: 100 * count for name, count in positions_per_sample(families, sizes, ones, 1 << 40).items()}
    assert rows == {"narrow": 30_000, "wide": 50 * 512, "wider": 50 * 700, "flat": 40_000}
    needed = sum(4 * rows[site.name] * len(site.kernel) for site in sites)
    assert positions_per_sample(families, sizes, ones, needed // 2) == {name: n // 200 for name, n in rows.items()}
    assert set(positions_per_sample(families, dict.fromkeys(shapes, (7, 3)), ones, 1 << 40).values()) == {21}
