"""Finding sites: every convolution is a site or has a reason not to be."""

from typing import Any

import numpy as np
import pytest
from models_for_tests import branches, build, classifier, conv, one_conv, photo, plain, residual, weights
from odd_models_for_tests import ALL, odd_convolutions, with_function, with_if
from onnx import helper

from onnx_lowrank import compress
from onnx_lowrank.errors import ModelError, UsageError
from onnx_lowrank.factorise.activations.relu import RELU
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.find.sites import find_sites


def reasons(model: object, **patterns: Any) -> dict[str, str]:
    return {skip.name: skip.reason for skip in find_sites(normalise(model), **patterns).skipped}


CONVOLUTIONS = {
    "plain": 3, "residual": 5, "branches": 5, "scattered_weights": 3, "shared_weights": 3, "shape_crossing": 2,
    "with_if": 5, "with_function": 3, "odd_convolutions": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_every_convolution_is_a_site_or_skipped_with_a_reason(name: str) -> None:
    found = find_sites(normalise(ALL[name]()))
    sites, skips = found.sites, found.skipped
    names = [*(site.name for site in sites), *(skip.name for skip in skips)]
    assert len(names) == len(set(names)) == CONVOLUTIONS[name]
    assert all(skip.reason and "\n" not in skip.reason for skip in skips)


def test_each_obstacle_has_its_reason() -> None:
    found = reasons(odd_convolutions())
    assert found.pop("first").startswith("the first convolution: it sees raw pixels")
    assert found == {
        "depthwise": "depthwise convolution (group=6)",
        "transposed": "depthwise convolution (group=6)",
        "quantised": "weights are quantised: compress before quantising",
        "dynamic": "weights are not constant",
        "transposed_1d": "depthwise convolution (group=6)",
        "fused": "FusedConv of the domain 'com.microsoft' is not supported",
    }


def test_convolutions_in_bodies_and_functions_are_named() -> None:
    found = reasons(with_if())
    assert found["inner"] == found["inner_else"] == "inside the body of If 'choice'"
    assert reasons(with_function())["in_function"] == "inside the function 'Block'"


def test_patterns_choose_and_an_explicit_name_overrides_the_first_layer_rule() -> None:
    network = normalise(residual())
    assert [site.name for site in find_sites(network).sites] == ["conv2", "conv3", "shortcut", "conv4"]
    assert [site.name for site in find_sites(network, include="conv[12]").sites] == ["conv1", "conv2"]
    assert [site.name for site in find_sites(network, exclude="short|4$").sites] == ["conv2", "conv3"]
    assert reasons(residual(), exclude="short")["shortcut"] == "excluded by --exclude"
    assert reasons(residual(), include="conv")["shortcut"] == "not named by --include"
    with pytest.raises(UsageError, match="--include '\\(' is not a regular expression"):
        find_sites(network, include="(")


@pytest.mark.parametrize(
    ("patterns", "lines"),
    [
        ({}, []),
        ({"include": "conv[12]", "exclude": "short"}, []),
        ({"include": "cnv2"}, ["--include 'cnv2' matches no layer; the nearest names are conv2, conv1, conv3"]),
        ({"exclude": r"^shrtcut$"}, ["--exclude '^shrtcut$' matches no layer; the nearest names are shortcut, "]),
        (
            {"include": "Conv4", "exclude": "nonsense"},
            ["--include 'Conv4' matches", "--exclude 'nonsense' matches"],
        ),
    ],
)
def test_a_pattern_that_matches_no_layer_is_named_with_the_nearest_names(
    patterns: dict[str, Any], lines: list[str]
) -> None:
    found = find_sites(normalise(residual()), **patterns)
    assert len(found.unmatched) == len(lines)
    for line, beginning in zip(found.unmatched, lines, strict=True):
        assert line.startswith(beginning) and "\n" not in line


def test_a_pattern_that_matches_a_layer_that_cannot_be_factorised_matches() -> None:
    assert find_sites(normalise(with_if()), exclude="inner_else").unmatched == ()
    assert find_sites(normalise(odd_convolutions()), include="depthwise").unmatched == ()
    assert find_sites(normalise(classifier("MatMul")), include="head").unmatched != ()
    assert find_sites(normalise(classifier("MatMul"), gemm=True), include="head", gemm=True).unmatched == ()


def test_the_characters_of_an_expression_do_not_count_among_those_of_a_name() -> None:
    nodes = [conv(name, x, "w", y) for name, x, y in (("s.1/conv", "x", "a"), ("s.2/conv", "a", "b"), ("d", "b", "y"))]
    network = normalise(build(nodes, {"w": weights(1, 3, 3, 3, 3)}))
    (line,) = find_sites(network, exclude=r"^s\.2/cnv(3|4)?.*\d$").unmatched
    assert line.endswith("the nearest names are s.2/conv, s.1/conv, d")
    (line,) = find_sites(normalise(one_conv(weights(1, 4, 3, 3, 3))), exclude="first").unmatched
    assert line.endswith("the nearest name is conv")


def test_without_any_layer_no_name_is_near() -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], {})
    assert find_sites(normalise(model), include="conv").unmatched == ()


def test_a_run_says_which_pattern_matches_nothing() -> None:
    data = photo(1, (8, 3, 12, 10))
    with pytest.raises(
        ModelError, match=r"nothing to factorise: --include 'cnv2' matches .* nearest names are conv2, "
    ):
        compress(residual(), data, include="cnv2")
    warnings: list[str] = []
    compress(residual(), data, 1.5, threads=1, include="conv2", exclude="conv9", warn=warnings.append)
    (line,) = (text for text in warnings if "--exclude" in text)
    assert line.startswith("--exclude 'conv9' matches no layer; the nearest names are conv")


def test_a_size_taken_from_the_input_does_not_make_a_layer_the_first() -> None:
    nodes = [
        conv("stem", "x", "w0", "c0"),
        helper.make_node("Shape", ["x"], ["size"], start=2),
        helper.make_node("Slice", ["c0", "zero", "size", "axes"], ["cut"]),
        conv("next", "cut", "w1", "y"),
    ]
    stored = {"w0": weights(1, 3, 3, 3, 3), "w1": weights(2, 3, 3, 3, 3)}
    integers = {"zero": np.zeros(2, np.int64), "axes": np.array([2, 3], np.int64)}
    found = find_sites(normalise(build(nodes, stored | integers)))
    sites, skips = found.sites, found.skipped
    assert [site.name for site in sites] == ["next"]
    assert [skip.name for skip in skips] == ["stem"]


def test_the_activation_counts_only_if_it_is_the_one_reader() -> None:
    activations = {site.name: site.activation for site in find_sites(normalise(plain()), include="").sites}
    assert activations == {"conv1": RELU, "conv2": RELU, "conv3": None}
    # Its response is an output of the model, too.
    stem = next(site for site in find_sites(normalise(branches()), include="stem").sites)
    assert stem.activation is None


def test_a_shortcut_joins_where_only_the_addition_reads_the_response() -> None:
    sites = {site.name: site for site in find_sites(normalise(residual()), include="").sites}
    joins = {name: (site.join.shortcut, site.join.total) if site.join else None for name, site in sites.items()}
    # The projection of the second block comes after its convolution in the file; each is the other's shortcut.
    assert joins == {
        "conv1": None, "conv2": ("r1", "a2"), "conv3": ("s3", "a3"), "shortcut": ("c3", "a3"), "conv4": ("r3", "y"),
    }  # fmt: skip
    assert {name: site.activation for name, site in sites.items()} == {
        "conv1": RELU, "conv2": RELU, "conv3": RELU, "shortcut": RELU, "conv4": None,
    }  # fmt: skip


def test_a_site_carries_its_arrays_and_geometry() -> None:
    nodes = [conv("", "x", "w", "y", "b", strides=[2, 1], dilations=[1, 2], pads=[0, 1, 2, 3])]
    kernel, bias = weights(1, 4, 3, 3, 2), weights(2, 4)
    site = find_sites(normalise(build(nodes, {"w": kernel, "b": bias})), include="").sites[0]
    assert (site.name, site.input, site.output) == ("y", "x", "y")
    assert (site.strides, site.dilations, site.pads, site.auto_pad) == ((2, 1), (1, 2), (0, 1, 2, 3), "NOTSET")
    assert site.dtype == np.float32
    assert site.kernel.dtype == site.bias.dtype == np.float64
    np.testing.assert_array_equal(site.kernel, kernel)
    np.testing.assert_array_equal(site.bias, bias)


def test_convolutions_that_share_a_name_are_told_apart_by_their_outputs() -> None:
    model = residual()
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.name = "conv"
    found = find_sites(normalise(model))
    sites, skips = found.sites, found.skipped
    assert [*(skip.name for skip in skips), *(site.name for site in sites)] == ["c1", "c2", "c3", "s3", "c4"]
