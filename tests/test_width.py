"""Promises of runs in which layers may lose channels, on small networks."""

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import build, conv, photo, relu, run_model, weights
from numpy.typing import NDArray
from onnx import helper

from onnx_lowrank import compress
from onnx_lowrank.errors import DataError
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import plan_only
from onnx_lowrank.plan.plan import Plan, WidthPlan
from onnx_lowrank.stages.hidden_sets import widths_of
from onnx_lowrank.stages.request import Request

Array = NDArray[Any]

DATA = photo(1, (40, 3, 12, 10))
POINT = [0, 0, 0, 0]
FEEDS = {"x": photo(99, (3, 3, 12, 10))}

run = functools.partial(compress, threads=1, require="none", images=40)


def repeated(seed: int, d: int, *rest: int) -> Array:
    """Return filters the second half of which repeats the first half."""
    half = weights(seed, d // 2, *rest)
    return np.concatenate([half, half])


def inverted_residuals(halves: bool = True, count: int = 2) -> onnx.ModelProto:
    """Build inverted residual blocks of 8 channels with 48 hidden ones, of which only half differ if ``halves``."""
    own = repeated if halves else weights
    nodes = [conv("stem", "x", "w", "s0")]
    stored = {"w": weights(0, 8, 3, 3, 3)}
    for i in range(count):
        stored |= {
            f"e{i}": own(3 * i + 1, 48, 8, 1, 1),
            f"d{i}": own(3 * i + 2, 48, 1, 3, 3),
            f"p{i}": weights(3 * i + 3, 8, 48, 1, 1),
        }
        nodes += [
            conv(f"expand{i}", f"s{i}", f"e{i}", f"a{i}", pads=POINT),
            relu(f"a{i}", f"b{i}"),
            conv(f"depthwise{i}", f"b{i}", f"d{i}", f"c{i}", group=48),
            relu(f"c{i}", f"h{i}"),
            conv(f"project{i}", f"h{i}", f"p{i}", f"q{i}", pads=POINT),
            helper.make_node("Add", [f"s{i}", f"q{i}"], [f"s{i + 1}"]),
        ]
    nodes.append(conv("head", f"s{count}", "wh", "y", pads=POINT))
    return build(nodes, stored | {"wh": weights(77, 4, 8, 1, 1)})


def chain(halves: bool = True) -> onnx.ModelProto:
    """Build a plain chain whose layers make channels half of which repeat the others."""
    own = repeated if halves else weights
    nodes = [
        conv("c1", "x", "w1", "a"),
        relu("a", "ar"),
        conv("c2", "ar", "w2", "b"),
        relu("b", "br"),
        conv("c3", "br", "w3", "y", pads=POINT),
    ]
    return build(nodes, {"w1": own(1, 32, 3, 3, 3), "w2": own(2, 32, 32, 3, 3), "w3": weights(3, 4, 32, 1, 1)})


def u_net() -> onnx.ModelProto:
    """Build a U-Net of one level, whose channels pass a ConvTranspose, a Concat and a depthwise layer."""
    stored = {
        "w1": repeated(1, 32, 3, 3, 3),
        "w2": repeated(2, 32, 32, 3, 3),
        "wt": weights(3, 32, 32, 2, 2),
        "w3": weights(4, 16, 64, 3, 3),
        "w4": weights(5, 2, 16, 1, 1),
    }
    stored["wt"] = np.concatenate([stored["wt"][:, :16]] * 2, axis=1)
    nodes = [
        conv("c1", "x", "w1", "a"),
        relu("a", "ar"),
        helper.make_node("MaxPool", ["ar"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("c2", "p", "w2", "b"),
        relu("b", "br"),
        helper.make_node("ConvTranspose", ["br", "wt"], ["u"], "up", strides=[2, 2]),
        relu("u", "ur"),
        helper.make_node("Concat", ["ur", "ar"], ["j"], axis=1),
        conv("c3", "j", "w3", "c"),
        relu("c", "cr"),
        conv("c4", "cr", "w4", "y", pads=POINT),
    ]
    return build(nodes, stored)


def error(model: onnx.ModelProto, result: onnx.ModelProto) -> float:
    """Return the relative error of the output on photos that no run has seen."""
    (expected,), (answer,) = (tuple(run_model(each, FEEDS).values()) for each in (model, result))
    return float(np.square(answer - expected).sum() / np.square(expected).sum())


def kernels(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the kernels by the names of their nodes."""
    stored = {each.name: tuple(each.dims) for each in model.graph.initializer}
    return {node.name: stored[node.input[1]] for node in model.graph.node if node.op_type == "Conv"}


@pytest.mark.parametrize("builder", [inverted_residuals, chain, u_net])
def test_channels_that_nobody_misses_go_for_nothing(builder: Any) -> None:
    model = builder()
    result = run(model, DATA, speedup=1.6, width="only")
    assert result.report.speedup.macs >= 1.6
    assert error(model, result.model) < 1e-4
    assert all(site.form is None for site in result.report.sites)
    assert any(width.after < width.before for width in result.report.widths)
    onnx.checker.check_model(result.model, full_check=True)


def test_depthwise_layers_and_readers_follow_the_channels() -> None:
    result = run(inverted_residuals(), DATA, speedup=1.6, width="only")
    shapes = kernels(result.model)
    for width in result.report.widths:
        number = width.name.removeprefix("expand")
        assert shapes[width.name] == (width.after, 8, 1, 1)
        assert shapes[f"depthwise{number}"] == (width.after, 1, 3, 3)
        assert shapes[f"project{number}"] == (8, width.after, 1, 1)
        assert width.readers == (f"project{number}",)


@pytest.mark.parametrize("builder", [inverted_residuals, chain])
def test_without_width_all_channels_stay(builder: Any) -> None:
    result = run(builder(), DATA, speedup=1.3, width="none")
    assert result.report.widths == ()
    assert "widths" not in json.loads(plan_of(builder(), width="none").to_json())


@pytest.mark.parametrize("builder", [inverted_residuals, chain])
def test_all_channels_reproduce_the_model(builder: Any) -> None:
    model = builder(halves=False)
    result = run(model, DATA, speedup=1)
    assert error(model, result.model) < 1e-9
    assert kernels(result.model) == kernels(model)


def plan_of(model: onnx.ModelProto, speedup: float = 1.6, **options: Any) -> Plan:
    settings = Options(speedup=speedup, threads=1, images=40, **options)
    return plan_only(Request(model, DATA, options=settings)).plan


def test_width_and_rank_are_chosen_together_and_replayed() -> None:
    model = chain(halves=False)
    plan = Plan.from_json(plan_of(model, 3.0, include=".").to_json())
    first = run(model, DATA, speedup=3.0, include=".")
    again = run(model, DATA, plan=plan, include=".")
    assert first.report.speedup.macs >= 3.0
    assert again.model == first.model
    assert {w.name: w.after for w in again.report.widths} == {w.name: w.width for w in plan.widths}


def test_a_narrow_layer_can_have_a_form_as_well() -> None:
    model = chain()
    base = plan_of(model, 1.5, include=".", width="only")
    for form, ranks in (("channel", (6,)), ("spatial", (8,)), ("3d", (8, 6)), ("cp", (20,))):
        sites = tuple(replace(site, form=form, ranks=ranks) if site.name == "c2" else site for site in base.sites)
        narrow = Plan(sites, (WidthPlan("c1", 16), WidthPlan("c2", 16)))
        result = run(model, DATA, plan=narrow, include=".")
        (site,) = (site for site in result.report.sites if site.name == "c2")
        assert site.form == form
        first = next(shape for name, shape in kernels(result.model).items() if name.startswith("c2/rank-1of"))
        assert first[1] == 16
        assert error(model, result.model) < 0.5


@pytest.mark.parametrize(
    ("width", "named"),
    [(WidthPlan("project0", 4), "'project0'"), (WidthPlan("expand0", 400), "400"), (WidthPlan("expand0", 1), "1")],
)
def test_widths_that_channels_cannot_have_are_refused(width: WidthPlan, named: str) -> None:
    model = inverted_residuals()
    plan = replace(plan_of(model, width="only"), widths=(width,))
    with pytest.raises(DataError, match=named) as caught:
        run(model, DATA, plan=plan)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "widths", ["many", [3], [{"name": "a"}], [{"name": "a", "width": 0}], [{"name": "a", "width": True}]]
)
def test_widths_that_are_no_widths_are_refused(widths: Any) -> None:
    with pytest.raises(DataError):
        Plan.from_json(json.dumps({"schema": 1, "sites": [], "widths": widths}))


def test_what_the_user_excludes_keeps_its_channels(tmp_path: Path) -> None:
    result = run(inverted_residuals(), DATA, speedup=1.2, width="only", exclude="project0")
    assert [width.name for width in result.report.widths] == ["expand1"]


@pytest.mark.parametrize("count", [16, 24, 32, 64, 96, 144, 512, 1280])
def test_widths_fill_blocks(count: int) -> None:
    *fewer, last = widths_of(count)
    assert last == count and fewer == sorted(set(fewer))
    step = 16 if count >= 64 else 8 if count >= 32 else 4
    assert all(width % step == 0 and width >= count / 4 for width in fewer)
