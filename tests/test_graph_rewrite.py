"""Rewriting: an exact factorisation computes what the dense convolution computed, whatever its geometry."""

from typing import Any

import numpy as np
import onnx
import pytest
from forms_for_tests import dense, every_kind_of_conv, form_at, highest_ranks, shape_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models_for_tests import OPSET, one_conv, photo, plain, residual, run_model, weights
from odd_models_for_tests import shared_weights
from onnx import TensorProto, helper

from onnx_lowrank.errors import ValidationError
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.factorise.forms.form import from_weights
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.graph.tensors import BFLOAT16

BOTH, NEITHER = (True, True), (False, False)


def exact(site: ConvSite, form: str) -> Factorization:
    """A factorisation at full rank, by SVD."""
    d, c, h, w = site.kernel.shape
    if form == "channel":
        p, s, q = np.linalg.svd(site.kernel.reshape(d, -1), full_matrices=False)
        stages = [Link((s[:, None] * q).reshape(-1, c, h, w), BOTH), Link(p[:, :, None, None], NEITHER)]
    else:
        # Rows (c, h) against columns (d, w).
        p, s, q = np.linalg.svd(site.kernel.transpose(1, 2, 0, 3).reshape(c * h, d * w), full_matrices=False)
        vertical = Link(p.T.reshape(-1, c, h, 1), (True, False))
        horizontal = Link((s[:, None] * q).reshape(-1, d, 1, w).transpose(1, 0, 2, 3), (False, True))
        stages = [vertical, horizontal]
        if form == "3d":
            rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
            turned = np.einsum("ed,drij->erij", rotation.T, horizontal.kernel)
            stages = [vertical, Link(turned, (False, True)), Link(rotation[:, :, None, None], NEITHER)]
    factorization = Factorization(tuple(stages), site.bias)
    np.testing.assert_allclose(dense(factorization), site.kernel, atol=1e-9)
    return factorization


def rewritten(model: onnx.ModelProto, form: str) -> onnx.ModelProto:
    loaded = load(model)
    network = normalise(loaded.proto)
    for site in find_sites(network, include="").sites:
        rewrite(network, site, exact(site, form))
    result = export(network, loaded)
    validate(result, model)
    return result


GEOMETRY = st.fixed_dictionaries(
    {"strides": st.tuples(st.integers(1, 3), st.integers(1, 3)).map(list)},
    optional={"dilations": st.tuples(st.integers(1, 3), st.integers(1, 2)).map(list)},
)
PADDING = st.one_of(
    st.fixed_dictionaries({"pads": st.lists(st.integers(0, 3), min_size=4, max_size=4)}),
    st.fixed_dictionaries({"auto_pad": st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"])}),
)


ANY_CONV: dict[str, Any] = {
    "form": st.sampled_from(["channel", "spatial", "3d", "cp"]),
    "size": st.tuples(st.integers(1, 5), st.integers(1, 5)),
    "image": st.tuples(st.integers(13, 17), st.integers(13, 17)),
    "geometry": GEOMETRY,
    "padding": PADDING,
}


@settings(deadline=None, max_examples=150)
@given(**ANY_CONV, biased=st.booleans())
def test_an_exact_chain_computes_the_dense_convolution(
    form: str,
    size: tuple[int, int],
    image: tuple[int, int],
    geometry: dict[str, Any],
    padding: dict[str, Any],
    biased: bool,
) -> None:
    if padding.get("auto_pad", "").startswith("SAME"):
        geometry.pop("dilations", None)  # ONNX Runtime refuses the two together.
    kernel = weights(7, 4, 3, *size)
    model = one_conv(kernel, weights(8, 4) if biased else None, **geometry, **padding)
    x = photo(1, (2, 3, *image))
    expected = run_model(model, {"x": x})["y"]
    got = run_model(rewritten(model, form), {"x": x})["y"]
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=2e-5)

    site = find_sites(normalise(model), include="").sites[0]
    assert site.output_size(image) == expected.shape[2:]
    top, left, bottom, right = site.padding(image)
    explicit = {"strides": [1, 1]} | geometry | {"pads": [top, left, bottom, right]}
    same = one_conv(kernel, weights(8, 4) if biased else None, **explicit)
    np.testing.assert_allclose(run_model(same, {"x": x})["y"], expected, atol=2e-5)


@every_kind_of_conv
@settings(deadline=None, max_examples=50)
@given(size=ANY_CONV["size"], image=ANY_CONV["image"], geometry=GEOMETRY, padding=PADDING, weighted=st.booleans())
def test_what_the_solver_makes_of_the_weights_at_full_rank_computes_the_dense_convolution(
    kind: FormKind,
    size: tuple[int, int],
    image: tuple[int, int],
    geometry: dict[str, Any],
    padding: dict[str, Any],
    weighted: bool,
) -> None:
    if padding.get("auto_pad", "").startswith("SAME"):
        geometry.pop("dilations", None)  # ONNX Runtime refuses the two together.
    model = one_conv(weights(7, 4, 3, *size), weights(8, 4), **geometry, **padding)
    loaded = load(model)
    network = normalise(loaded.proto)
    site = find_sites(network, include="").sites[0]
    assume(kind.takes(shape_of(site.kernel)))
    # At full rank the statistics of the patches do not matter.
    numbers = site.kernel[0].size
    mixing = np.eye(numbers) + 0.3 * np.random.default_rng(9).normal(size=(numbers, numbers)) / np.sqrt(numbers)
    patches = photo(9, (200, numbers)) @ mixing.T.astype(np.float32)
    batches = [patches.reshape(200, *site.kernel.shape[1:])] if weighted else []
    form = form_at(kind, site.kernel, highest_ranks(kind, site.kernel), *batches)
    factors = from_weights(form, site.kernel, site.bias)
    rewrite(network, site, factors)
    result = export(network, loaded)
    validate(result, model)
    x = photo(1, (2, 3, *image))
    np.testing.assert_allclose(run_model(result, {"x": x})["y"], run_model(model, {"x": x})["y"], atol=2e-5)


@pytest.mark.parametrize("form", ["channel", "spatial", "3d", "cp"])
@pytest.mark.parametrize("build", [plain, residual, shared_weights])
def test_a_whole_network_rewritten_exactly_computes_the_same(build: Any, form: str) -> None:
    model = build()
    result = rewritten(model, form)
    for output, values in run_model(model, {"x": photo()}).items():
        np.testing.assert_allclose(run_model(result, {"x": photo()})[output], values, rtol=1e-4, atol=1e-4)


def test_the_chain_stands_where_the_convolution_stood_and_makes_its_tensor() -> None:
    loaded = load(residual())
    network = normalise(loaded.proto)
    site = next(site for site in find_sites(network).sites if site.name == "conv2")
    output = network.nodes[2].outputs[0]
    rewrite(network, site, exact(site, "spatial"))
    assert [node.name for node in network.nodes[:5]] == ["conv1", "relu_r1", "conv2/rank-1of2", "conv2/rank-2of2", ""]
    assert network.nodes[3].outputs[0] is output
    proto = export(network, loaded)
    stored = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    assert "w2" not in stored
    assert "b2" not in stored
    assert stored["conv2/rank-1of2.weight"] == [24, 8, 3, 1]
    assert stored["conv2/rank-2of2.bias"] == [8]
    attributes = {attribute.name: list(attribute.ints) for attribute in proto.graph.node[2].attribute}
    assert attributes == {"kernel_shape": [3, 1], "strides": [1, 1], "dilations": [1, 1], "pads": [1, 0, 1, 0]}


def test_new_names_avoid_those_that_exist() -> None:
    model = residual()
    model.graph.node[0].name = "conv2/rank-1of2"
    network = normalise(model)
    site = next(site for site in find_sites(network).sites if site.name == "conv2")
    rewrite(network, site, exact(site, "channel"))
    names = [node.name for node in network.nodes if node.name]
    assert len(names) == len(set(names))


def test_a_bias_of_zeros_is_written_only_where_there_was_one() -> None:
    for bias, expected in ((None, 2), (np.zeros(4, np.float32), 3)):
        result = rewritten(one_conv(weights(1, 4, 3, 3, 3), bias), "channel")
        assert [len(node.input) for node in result.graph.node] == [2, expected]


def test_a_weight_that_others_read_stays() -> None:
    loaded = load(shared_weights())
    network = normalise(loaded.proto)
    for site in find_sites(network).sites:
        rewrite(network, site, exact(site, "channel"))
    assert "w" in {tensor.name for tensor in export(network, loaded).graph.initializer}


@pytest.mark.parametrize(("number", "dtype"), [(10, np.dtype(np.float16)), (11, np.dtype(np.float64)), (16, BFLOAT16)])
def test_factors_take_the_type_of_the_weights(number: int, dtype: np.dtype[Any]) -> None:
    kernel = weights(1, 4, 3, 3, 3).astype(dtype)
    stored = helper.make_tensor("w", number, kernel.shape, kernel.tobytes(), raw=True)
    ends = [helper.make_tensor_value_info(name, number, ["N", None, None, None]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], "conv")], "g", ends[:1], ends[1:], [stored])
    # Conv knows bfloat16 since opset 22.
    opset = 22 if number == TensorProto.BFLOAT16 else OPSET
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    site = find_sites(normalise(model), include="conv").sites[0]
    assert site.dtype == dtype
    np.testing.assert_array_equal(site.kernel, kernel.astype(np.float64))
    result = rewritten(model, "channel")
    assert {tensor.data_type for tensor in result.graph.initializer} == {number}


def test_a_factor_beyond_the_range_of_its_type_is_refused() -> None:
    network = normalise(one_conv(weights(1, 4, 3, 3, 3)))
    site = find_sites(network, include="conv").sites[0]
    chain = exact(site, "channel")
    large = Factorization((Link(chain.links[0].kernel * 1e300, BOTH), chain.links[1]), chain.bias)
    with pytest.raises(ValidationError, match=r"conv: a factor of size .* does not fit float32"):
        rewrite(network, site, large)
    assert len(network.nodes) == 1
    assert len(network.nodes[0].inputs) == 2
