"""Transposed convolutions: their geometry, their forms, and the networks in which they stand."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from forms_for_tests import fit, form_at, judging
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import build, conv, norm, photo, relu, run_model, weights
from numpy.typing import NDArray
from onnx import helper

from onnx_lowrank import compress
from onnx_lowrank.calibration.local_shard import site_patches
from onnx_lowrank.factorise.factors import side_by_side
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form, from_weights
from onnx_lowrank.factorise.forms.input import INPUT
from onnx_lowrank.factorise.forms.kind import FormKind, placeholder
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.factorise.regression import LowRankMap
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.graph.find.families import families
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.graph.layer_model import ConvGeometry, layer_input, layer_model
from onnx_lowrank.pipeline import Result
from onnx_lowrank.plan.plan import Plan, SitePlan

Array = NDArray[Any]

KINDS = tuple(kind for kind in FORMS if kind.takes(ConvShape(4, 4, (3, 3), (2, 2), (4, 4), spread=(2, 2))))
every_kind = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


def up(name: str, x: str, w: str, y: str, b: str | None = None, **attributes: Any) -> Any:
    """Return a ConvTranspose node with stride 2, unless the attributes state another."""
    attributes.setdefault("strides", [2, 2])
    return helper.make_node("ConvTranspose", [x, w, b] if b else [x, w], [y], name, **attributes)


# ---- one layer


@dataclass(frozen=True)
class Layer:
    """A transposed convolution of twelve channels, and the size of its input."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    filters: int
    group: int
    biased: bool
    attributes: dict[str, Any]

    def model(self) -> onnx.ModelProto:
        stored = {"w": weights(1, 12, self.filters // self.group, *self.kernel)}
        stored |= {"b": weights(2, self.filters)} if self.biased else {}
        node = up("up", "x", "w", "y", "b" if self.biased else None, group=self.group, **self.attributes)
        free = [None] * len(self.size)
        return build([node], stored, input_shape=("N", 12, *free), output_shape=("N", None, *free))

    def samples(self, count: int = 2) -> Array:
        return photo(3, (count, 12, *self.size))


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    axes = draw(st.sampled_from([1, 2, 2, 3]))

    def numbers(low: int, high: int, count: int = axes) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    size, kernel, strides, dilations = numbers(2, 5), numbers(1, 4), numbers(1, 3), numbers(1, 2)
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations}
    sides = list(zip(size, kernel, strides, dilations, strict=True))
    full = [(n - 1) * step + (k - 1) * spread + 1 for n, k, step, spread in sides]
    way = draw(st.sampled_from(["pads", "output_padding", "SAME_UPPER", "SAME_LOWER", "VALID", "output_shape"]))
    if way == "pads":  # fewer than would leave nothing
        attributes["pads"] = [min(pad, (full[i % axes] - 1) // 2) for i, pad in enumerate(numbers(0, 2, 2 * axes))]
    elif way == "output_padding":
        attributes["output_padding"] = [draw(st.integers(0, step - 1)) for step in strides]
    elif way == "output_shape":
        attributes["output_shape"] = [max(n, own - draw(st.integers(0, 2))) for n, own in zip(size, full, strict=True)]
        attributes |= {"auto_pad": "SAME_UPPER"} if draw(st.booleans()) else {}
    elif all(n * step <= own for own, (n, _, step, _) in zip(full, sides, strict=True)):
        attributes["auto_pad"] = way
    group = draw(st.sampled_from([1, 2, 3]))
    filters = group * draw(st.integers(1, 4))
    return Layer(tuple(size), tuple(kernel), filters, group, draw(st.booleans()), attributes)


def only_site(model: onnx.ModelProto) -> ConvSite:
    (site,) = find_sites(normalise(model), include="").sites
    return site


def rows_of(site: ConvSite, x: Array) -> tuple[Array, Array]:
    """All patches [n, c, *sizes] and responses without bias [n, d] of a layer of one group."""
    positions = np.arange(int(np.prod(site.output_size(x.shape[2:]))))
    (patches,) = site_patches(site, x, positions)
    return patches, patches.reshape(len(patches), -1) @ site.kernel.reshape(len(site.kernel), -1).T.astype(np.float32)


@settings(deadline=None, max_examples=80)
@given(layer=layers())
def test_one_kernel_makes_the_responses_of_all_phases_from_their_patches(layer: Layer) -> None:
    model, x = layer.model(), layer.samples()
    site, y = only_site(model), run_model(model, {"x": x})["y"]
    assert site.output_size(layer.size) == y.shape[2:]
    positions = np.random.default_rng(0).permutation(int(np.prod(y.shape[2:])))[:9]
    groups = zip(site_patches(site, x, positions), site.kernels, strict=True)
    responses = [np.tensordot(patches, kernel, (range(1, patches.ndim),) * 2) for patches, kernel in groups]
    expected = y.reshape(*y.shape[:2], -1)[:, :, positions].transpose(0, 2, 1).reshape(-1, layer.filters)
    np.testing.assert_allclose(np.concatenate(responses, axis=1) + site.bias, expected, atol=2e-5)


@every_kind
@settings(deadline=None, max_examples=40)
@given(layer=layers(), weighted=st.booleans())
def test_at_full_rank_every_form_computes_the_layer(kind: FormKind, layer: Layer, weighted: bool) -> None:
    model, x = layer.model(), layer.samples()
    loaded = load(model)
    network = normalise(loaded.proto)
    (site,) = find_sites(network, include="").sites
    d, c = layer.filters // layer.group, 12 // layer.group
    shape = ConvShape(d, c, layer.kernel, layer.size, site.output_size(layer.size), layer.group, site.strides)
    if not kind.takes(shape):  # the cp form of a kernel that is no larger than its stride
        return
    patches = site_patches(site, x, np.arange(3)) if weighted and np.prod(shape.output) > 2 else [None] * layer.group
    parts = []
    for kernel, bias, own in zip(site.kernels, np.split(site.bias, site.group), patches, strict=True):
        form = form_at(kind, kernel, kind.highest_ranks(shape), *([] if own is None else [own]))
        parts.append(from_weights(form, kernel, bias))
    rewrite(network, site, side_by_side(parts))
    result = export(network, loaded)
    validate(result, model)
    expected = run_model(model, {"x": x})["y"]
    np.testing.assert_allclose(run_model(result, {"x": x})["y"], expected, atol=2e-5)
    operators = [node.op_type for node in result.graph.node]
    assert sorted(operators) == ["Conv"] * (len(operators) - 1) + ["ConvTranspose"]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_linear_channel_form_is_as_good_as_any_map_of_its_rank(stride: int) -> None:
    site = only_site(Layer((5, 4), (3, 2), 6, 1, False, {"strides": [stride, stride]}).model())
    patches, Y = rows_of(site, photo(5, (20, 12, 5, 4)))
    form = form_at(CHANNEL, site.kernel, (2,))
    left = np.square(Y - solved(form, patches, Y)(form.regressors(form.inputs(patches)))).sum()
    # All maps of rank 2 of all regressors: the best one keeps two principal components of the responses.
    least = np.square(np.linalg.svd(Y - Y.mean(axis=0), compute_uv=False)[2:]).sum()
    assert least <= left * (1 + 1e-5) and left < 1.02 * least


def test_an_input_form_is_the_best_of_its_rank_where_taps_do_not_meet() -> None:
    """Where the kernel is as large as the stride, the layer is one matrix [d·s, c] for every input pixel."""
    site = only_site(Layer((6, 5), (2, 2), 5, 1, False, {"strides": [2, 2]}).model())
    mixing = np.random.default_rng(0).normal(size=(12, 12)) * 0.6 ** np.arange(12)
    x = np.einsum("ij,njhw->nihw", mixing, photo(7, (60, 12, 6, 5))).astype(np.float32)
    patches, Y = rows_of(site, x)
    A = site.kernel.transpose(2, 3, 0, 1).reshape(-1, 12)
    pixels = x.transpose(0, 2, 3, 1).reshape(-1, 12)
    for rank in (1, 2, 4):
        form = form_at(INPUT, site.kernel, (rank,), patches)
        chain = form.chain(solved(form, patches, Y))
        least = np.square(np.linalg.svd(pixels @ A.T, compute_uv=False)[rank:]).sum()
        left = np.square(Y - chain(form.inputs(patches))).sum()
        assert 0.99 * least < left < 1.05 * least


def solved(form: Form, patches: Array, Y: Array) -> LowRankMap:
    """The linear solution of a form on all patches."""
    rows = Rows(form.regressors(form.inputs(patches)), Y, judging(len(Y)))
    return fit(rows, form.prior, form.rank, None, nonlinear=False).map


@settings(deadline=None, max_examples=20)
@given(layer=layers(), kind=st.sampled_from([CHANNEL, INPUT]))
def test_the_layer_on_the_stopwatch_has_the_geometry_of_the_original(layer: Layer, kind: FormKind) -> None:
    site = only_site(layer.model())
    geometry = ConvGeometry.of(site, (1, 12, *layer.size), 2)
    chain = placeholder(kind, geometry.weights, geometry.group, (1,))
    for factorization in (None, chain):
        model = onnx.load_from_string(layer_model(geometry, factorization))
        response = "response"
        model.graph.output.append(helper.make_tensor_value_info(response, onnx.TensorProto.FLOAT, None))
        outputs = run_model(model, layer_input(geometry))
        assert outputs[response].shape == (2, layer.filters, *site.output_size(layer.size))


# ---- what stands around


@pytest.mark.parametrize("group", [1, 2])
def test_what_is_affine_behind_a_transposed_convolution_becomes_part_of_it(group: int) -> None:
    batch_norm, stored = norm("u", "n", "bn", 6, 3)
    stored |= {"w": weights(1, 4, 6 // group, 2, 2), "shift": weights(2, 6, 1, 1)}
    nodes = [up("up", "x", "w", "u", group=group), batch_norm, helper.make_node("Add", ["n", "shift"], ["y"])]
    model = build(nodes, stored, input_shape=("N", 4, "H", "W"))
    loaded = load(model)
    network = normalise(loaded.proto)
    assert network.folded == 2 and [node.op for node in network.nodes] == ["ConvTranspose"]
    x = {"x": photo(4, (2, 4, 5, 6))}
    folded = run_model(export(network, loaded), x)["y"]
    np.testing.assert_allclose(folded, run_model(model, x)["y"], atol=1e-5)


def test_a_weight_that_a_conv_and_a_transposed_one_share_takes_no_gain() -> None:
    first, stored = norm("c", "y", "bn", 4, 3)
    second = helper.make_node("BatchNormalization", ["u", *first.input[1:]], ["z"], epsilon=first.attribute[0].f)
    nodes = [conv("conv", "x", "w", "c"), first, up("up", "x", "w", "u"), second]
    model = build(nodes, stored | {"w": weights(1, 4, 4, 3, 3)}, ("y", "z"), input_shape=("N", 4, "H", "W"))
    loaded = load(model)
    network = normalise(loaded.proto)
    x = {"x": photo(4, (2, 4, 5, 6))}
    for name, expected in run_model(model, x).items():
        np.testing.assert_allclose(run_model(export(network, loaded), x)[name], expected, atol=1e-5)


def test_what_cannot_be_replaced_has_its_reason() -> None:
    stored = {
        "depthwise": weights(1, 4, 1, 4, 4),
        "shared": weights(2, 4, 4, 3, 3),
        "quantised": np.ones((4, 4, 2, 2), np.int8),
        "scale": np.array(0.1, np.float32),
    }
    nodes = [
        up("bilinear", "x", "depthwise", "a", group=4, pads=[1] * 4),
        helper.make_node("DequantizeLinear", ["quantised", "scale"], ["q"]),
        up("in_bytes", "a", "q", "b"),
        up("stated", "b", "shared", "c", strides=[1, 1], output_shape=[31, 30]),
        conv("conv", "b", "shared", "y"),
        up("up", "b", "shared", "z"),
    ]
    model = build(nodes, stored, ("y", "z", "c"), input_shape=("N", 4, 8, 8))
    network = normalise(model)
    found = find_sites(network, include="")
    assert {skip.name: skip.reason for skip in found.skipped} == {
        "bilinear": "depthwise convolution (group=4)",
        "in_bytes": "weights are quantised: compress before quantising",
    }
    # A Conv reads the same numbers in another order, so it is no relative of a ConvTranspose.
    assert [family.names for family in families(network, found.sites)] == [("stated", "up"), ("conv",)]
    report = compress(model, photo(5, (8, 4, 8, 8)), 1.1, threads=1, include="", require="none").report
    (reason,) = (skip.reason for skip in report.skipped if skip.name == "stated")
    assert reason.startswith("its output_shape is smaller than its input")


# ---- whole networks


def smooth(seed: int, *shape: int) -> Array:
    """Weights whose matrices [first axis, others] have quickly falling singular values, as those of trained layers."""
    rng = np.random.default_rng(seed)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    inner = min(rows, columns)
    factors = rng.normal(size=(rows, inner)) * 0.8 ** np.arange(inner), rng.normal(size=(inner, columns))
    product = factors[0] @ factors[1]
    values: Array = (product / np.sqrt(np.square(product).sum() / rows)).reshape(shape)
    return values.astype(np.float32)


def unet(*, joined: bool) -> onnx.ModelProto:
    """A U-Net of three levels with 2×2 and 4×4 transposed convolutions, whose skips are concatenated or added."""
    d = 16
    after = d if joined else 2 * d
    stored = {
        "w0": weights(1, d, 3, 3, 3), "w1": smooth(2, 2 * d, d, 3, 3), "w2": smooth(3, 4 * d, 2 * d, 3, 3),
        "u2": smooth(4, 4 * d, 2 * d, 2, 2), "b2": weights(5, 2 * d), "w3": smooth(6, 2 * d, 2 * after, 3, 3),
        "u1": smooth(7, 2 * d, d, 4, 4), "w4": smooth(8, d, after, 3, 3), "w5": weights(9, 2, d, 1, 1),
    }  # fmt: skip
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    meet = "Add" if joined else "Concat"
    axis = {} if joined else {"axis": 1}
    nodes = [
        conv("conv0", "x", "w0", "c0"), relu("c0", "r0"), helper.make_node("MaxPool", ["r0"], ["p0"], **pool),
        conv("conv1", "p0", "w1", "c1"), relu("c1", "r1"), helper.make_node("MaxPool", ["r1"], ["p1"], **pool),
        conv("conv2", "p1", "w2", "c2"), relu("c2", "r2"),
        up("up2", "r2", "u2", "t2", "b2"), helper.make_node(meet, ["t2", "r1"], ["m1"], **axis), relu("m1", "q1"),
        conv("conv3", "q1", "w3", "c3"), relu("c3", "r3"),
        up("up1", "r3", "u1", "t1", pads=[1] * 4), helper.make_node(meet, ["t1", "r0"], ["m0"], **axis),
        relu("m0", "q0"), conv("conv4", "q0", "w4", "c4"), relu("c4", "r4"),
        conv("conv5", "r4", "w5", "y", pads=[0] * 4),
    ]  # fmt: skip
    return build(nodes, stored)


@pytest.fixture(scope="module", params=[False, True], ids=["concatenated", "added"])
def halved(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, Result]:
    model = unet(joined=request.param)
    return model, compress(model, photo(11, (40, 3, 16, 16)), 2.0, threads=1)


def test_a_unet_at_half_its_cost_keeps_its_interface_and_its_answers(halved: tuple[onnx.ModelProto, Result]) -> None:
    model, result = halved
    validate(result.model, model)
    report = result.report
    assert 2 <= report.speedup.macs < 2.03
    sites = {site.name: site for site in report.sites}
    assert {name for name, site in sites.items() if site.transposed} == {"up1", "up2"}
    assert not sites["up1"].kept and not sites["up2"].kept
    assert sites["up2"].macs_before == 64 * 32 * 4 * 4 * 4
    assert report.outputs["y"].centred_error < 0.02


def test_a_shortcut_that_meets_a_transposed_convolution_is_part_of_its_target() -> None:
    sites = {site.name: site for site in find_sites(normalise(unet(joined=True))).sites}
    for name, shortcut in (("up2", "r1"), ("up1", "r0")):
        join, activation = sites[name].join, sites[name].activation
        assert join and join.shortcut == shortcut and activation and activation.name == "Relu"


@every_kind
def test_a_plan_at_full_rank_reproduces_a_unet(kind: FormKind) -> None:
    model = unet(joined=False)
    shapes = {"up2": ConvShape(32, 64, (2, 2), (), (), spread=(2, 2))}
    shapes["up1"] = ConvShape(16, 32, (4, 4), (), (), spread=(2, 2))
    taken = {name: shape for name, shape in shapes.items() if kind.takes(shape)}
    plan = Plan(tuple(SitePlan(name, kind.name, kind.highest_ranks(shape)) for name, shape in taken.items()))
    replayed = Plan.from_json(plan.to_json())
    result = compress(model, photo(11, (10, 3, 16, 16)), plan=replayed, threads=1, images=10)
    x = {"x": photo(12, (2, 3, 12, 20))}
    expected = run_model(model, x)["y"]
    np.testing.assert_allclose(run_model(result.model, x)["y"], expected, atol=1e-4 * np.abs(expected).max())


def test_every_solver_takes_transposed_convolutions() -> None:
    model, data = unet(joined=True), photo(11, (16, 3, 16, 16))
    errors = {}
    for solver in ("weights", "linear", "nonlinear"):
        result = compress(model, data, 2.0, threads=1, solver=solver, require="none")
        errors[solver] = result.report.outputs["y"].centred_error
    assert errors["nonlinear"] <= errors["linear"] * 1.05 and errors["linear"] < errors["weights"]
