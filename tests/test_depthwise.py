"""Large depthwise kernels are cut in space, every channel for itself; small ones stay as they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import build, conv, photo, relu, run_model, weights
from numpy.typing import NDArray

from onnx_lowrank import Result, compress
from onnx_lowrank.errors import TargetError
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.plan.plan import Plan, SitePlan

Array = NDArray[Any]
CHANNELS = 6


def network(sizes: Sequence[int], multiplier: int = 1, channels: int = CHANNELS, **attributes: Any) -> onnx.ModelProto:
    """A 1×1 convolution, a depthwise one with so many filters a channel, and another 1×1."""
    ones, d = (1,) * len(sizes), multiplier * channels
    attributes = {"pads": [size // 2 for size in sizes] * 2} | attributes
    nodes = [
        conv("stem", "x", "w0", "c0", pads=[0] * 2 * len(sizes)), relu("c0", "r0"),
        conv("deep", "r0", "w1", "c1", "b1", group=channels, **attributes), relu("c1", "r1"),
        conv("last", "r1", "w2", "y", pads=[0] * 2 * len(sizes)),
    ]  # fmt: skip
    stored = {
        "w0": weights(1, channels, 3, *ones), "w1": weights(2, d, 1, *sizes), "b1": weights(3, d),
        "w2": weights(4, 4, d, *ones),
    }  # fmt: skip
    free = [None] * len(sizes)
    return build(nodes, stored, input_shape=("N", 3, *free), output_shape=("N", 4, *free))


def samples(sizes: Sequence[int], count: int = 30, seed: int = 5) -> Array:
    """Inputs whose neighbouring pixels resemble each other, as those of photos do."""
    x = photo(seed, (count, 3, *(max(14, size + 5) for size in sizes))).astype(np.float64)
    for axis in range(2, x.ndim):
        for _ in range(3):
            x = x + np.roll(x, 1, axis)
    smooth: Array = (x / x.std()).astype(np.float32)
    return smooth


def error(model: onnx.ModelProto, result: Result, sizes: Sequence[int]) -> float:
    x = {"x": samples(sizes, 20, 99)}
    before, after = (run_model(one, x)["y"].astype(np.float64) for one in (model, result.model))
    assert before.shape == after.shape
    return float(np.square(before - after).sum() / np.square(before).sum())


CUT = [(7, 7), (9, 9), (17, 5), (3, 21), (31, 31), (2, 7, 7)]
LEFT = [(3, 3), (5, 5), (1, 49), (49, 1), (31,), (128,), (1, 1, 99)]


@pytest.mark.parametrize("sizes", [*CUT, *LEFT], ids=str)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_which_depthwise_kernels_are_cut(sizes: tuple[int, ...], multiplier: int) -> None:
    found = find_sites(normalise(network(sizes, multiplier)))
    names, reasons = [site.name for site in found.sites], {skip.name: skip.reason for skip in found.skipped}
    assert names == (["deep", "last"] if sizes in CUT else ["last"])
    assert reasons.get("deep") == (None if sizes in CUT else f"depthwise convolution (group={CHANNELS})")


GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "strides and asymmetric pads": {"strides": [2, 1], "pads": [0, 4, 3, 1]},
    "dilations": {"dilations": [1, 2]},
    "SAME": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
}


@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("case", GEOMETRIES)
def test_at_full_rank_the_cut_is_exact(case: str, multiplier: int) -> None:
    attributes = dict(GEOMETRIES[case])
    if "auto_pad" in attributes:
        attributes["pads"] = None
    attributes = {key: value for key, value in attributes.items() if value is not None}
    model = network((7, 9), multiplier, **attributes)
    if "auto_pad" in attributes:
        node = next(node for node in model.graph.node if node.name == "deep")
        kept = [attribute for attribute in node.attribute if attribute.name != "pads"]
        del node.attribute[:]
        node.attribute.extend(kept)
    plan = Plan((SitePlan("deep", "spatial", (7,)),))
    for solver in ("nonlinear", "weights"):
        result = compress(model, samples((9, 17)), plan=plan, threads=1, require="none", solver=solver)
        assert error(model, result, (9, 17)) < 1e-9


@pytest.mark.parametrize("sizes", [(9, 9), (17, 5), (2, 7, 7)], ids=str)
def test_the_error_falls_as_terms_are_added_and_data_beat_the_weights_alone(sizes: tuple[int, ...]) -> None:
    model, data, last = network(sizes), samples(sizes), np.inf
    for terms in (1, 2, min(sizes[0], sizes[-1])):
        plan = Plan((SitePlan("deep", "spatial", (min(terms, sizes[0]),)),))
        solved = error(model, compress(model, data, plan=plan, threads=1, require="none"), sizes)
        assert solved <= last * 1.05
        last = solved
        if terms == 1:
            assert solved < error(
                model, compress(model, data, plan=plan, threads=1, require="none", solver="weights"), sizes
            )


def test_a_network_whose_macs_are_in_large_depthwise_kernels_is_reached_and_costs_what_was_planned() -> None:
    model = network((15, 15), channels=12)
    report = compress(model, samples((15, 15)), 3.0, threads=1, require="none").report
    assert 3.0 <= report.speedup.macs < 3.6
    deep = next(site for site in report.sites if site.name == "deep")
    assert deep.form == "spatial" and deep.group == 12 and deep.macs_after * 3 < deep.macs_before
    assert report.outputs["y"].relative_error < 0.1


def test_large_depthwise_kernels_that_cost_little_are_left_alone_unless_they_are_named() -> None:
    nodes = [
        conv("stem", "x", "w0", "c0", pads=[0] * 4), relu("c0", "r0"),
        conv("deep", "r0", "w1", "c1", group=40, pads=[3] * 4), relu("c1", "r1"), conv("wide", "r1", "w2", "y"),
    ]  # fmt: skip
    stored = {"w0": weights(1, 40, 3, 1, 1), "w1": weights(2, 40, 1, 7, 7), "w2": weights(3, 120, 40, 3, 3)}
    model = build(nodes, stored)
    for include, names in ((None, ["wide"]), ("deep|wide", ["deep", "wide"])):
        report = compress(
            model, samples((7, 7)), 1.5, threads=1, require="none", include=include, solver="weights"
        ).report
        assert [site.name for site in report.sites] == names
        assert ("deep" in {skip.name for skip in report.skipped}) == (include is None)


def test_a_form_that_cannot_make_a_depthwise_layer_cheaper_is_named_with_the_way_out() -> None:
    with pytest.raises(TargetError, match=r"lower --speedup or allow other forms with --form auto") as caught:
        compress(network((9, 9)), samples((9, 9)), 1.5, threads=1, require="none", form="channel")
    assert "in deep: no rank saves MACs" in str(caught.value)
