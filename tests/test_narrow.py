"""Taking channels out of the graph: what nobody sees can go, and everything else stays as it is."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from models_for_tests import run_model
from narrowing_for_tests import feed, ignore, network_of, zeroed_and_narrowed
from networks_of_hidden_channels import CASES, Case

from onnx_lowrank.errors import ValidationError
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.graph.edit.narrow import narrow, narrow_together
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.graph.find.hidden_channels import find_hidden_channels
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.graph.network import Network

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Check that two models compute the same but for round-off."""
    inputs = feed(model)
    expected, found = (run_model(one, inputs)["y"] for one in (before, after))
    assert expected.shape == found.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(np.abs(expected).max(), 1))


def numbers(model: onnx.ModelProto) -> int:
    """Count the stored numbers."""
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)


@every_case
@pytest.mark.parametrize("share", (0.0, 0.5, 1.0), ids=("one channel stays", "half of them", "all but one"))
def test_channels_that_nobody_sees_can_go(case: Case, share: float) -> None:
    rng, model = np.random.default_rng(1), case.model
    sizes = [min(max(1, round(share * channels.count)), channels.count - 1) for channels in case.expected]
    keep = [
        (channels, sorted(rng.permutation(channels.count)[:size].tolist()))
        for channels, size in zip(case.expected, sizes, strict=True)
    ]
    zeroed, narrowed = zeroed_and_narrowed(model, keep)
    validate(narrowed, model)
    onnx.checker.check_model(narrowed, full_check=True)
    assert_same(zeroed, narrowed, model)
    assert numbers(narrowed) < numbers(zeroed)


@every_case
def test_what_is_left_has_the_sets_that_are_left(case: Case) -> None:
    keep = [(channels, range(0, channels.count, 2)) for channels in case.expected]
    _, narrowed = zeroed_and_narrowed(case.model, keep)
    network, _ = network_of(narrowed)
    counts = [channels.count for channels in find_hidden_channels(network)]
    assert counts == [len(kept) for _, kept in keep if len(kept) > 1]


def chains(network: Network, unseen: Mapping[str, Sequence[int]]) -> None:
    """Replace every convolution by two, at full rank; ``unseen`` holds the channels that layers ignore."""
    for site in find_sites(network, include="").sites:
        d, kernel = len(site.bias), site.kernel
        if site.depthwise:
            rows, columns = kernel[:, :, :, :1], kernel[:, :, :1, :]
            links = (Link(rows, (True, False), depthwise=True), Link(columns, (False, True), depthwise=True))
        elif kernel.ndim == 4:
            p, s, q = np.linalg.svd(kernel.reshape(d, -1), full_matrices=False)
            first = (s[:, None] * q).reshape(-1, *kernel.shape[1:])
            first[:, list(unseen.get(site.output, []))] = 0  # and not round-off
            links = (Link(first, (True, True)), Link(p[:, :, None, None], (False, False)))
        else:
            continue
        rewrite(network, site, Factorization(links, site.bias, site.group if not site.depthwise else 1))


SEVEN = Case(
    """a = Conv(x, w1) r = Relu(a) d = Conv<pads=[3,3,3,3], group=6>(r, w2, b2) e = Relu(d)
       y = Conv3(e, w3)""",
    {"w1": (6, 3, 1, 1), "w2": (6, 1, 7, 7), "b2": (6,), "w3": (4, 6, 3, 3)},
    [(6, ("a",), ("d",), (("y", "e", 0, 1),))],
)


@pytest.mark.parametrize("case", [*CASES.values(), SEVEN], ids=[*CASES, "a large depthwise kernel"])
def test_layers_may_have_become_chains_by_then(case: Case) -> None:
    network, loaded = network_of(case.model)
    sets = find_hidden_channels(network)
    assert sets == case.expected
    unseen: dict[str, list[int]] = {}
    for channels in sets:
        gone = range(1, channels.count)
        ignore(network, channels.readers, gone)
        for reader in channels.readers:
            own = [reader.first + channel * reader.repeat + i for channel in gone for i in range(reader.repeat)]
            unseen.setdefault(reader.output, []).extend(own)
    chains(network, unseen)
    zeroed = export(network, loaded)
    for channels in sets:
        narrow(network, channels.makers, [0])
    narrowed = export(network, loaded)
    validate(narrowed, case.model)
    assert_same(zeroed, narrowed, case.model)


def test_a_channel_that_is_seen_is_not_removed() -> None:
    case = CASES["a dense block"]
    network, loaded = network_of(case.model)
    (channels, *_) = case.expected
    ignore(network, channels.readers[:-1], [1])
    before = export(network, loaded).SerializeToString(deterministic=True)
    with pytest.raises(ValidationError, match="'f' reads channels that are to go"):
        narrow(network, channels.makers, [0, 2])
    assert export(network, loaded).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("keep", "problem"),
    [
        ([], "no ascending choice"),
        ([0, 0], "no ascending"),
        ([2, 1], "no ascending"),
        ([6], "no asc"),
        ([-1], "no asc"),
    ],
)
def test_the_channels_that_stay_are_a_choice(keep: Sequence[int], problem: str) -> None:
    network, _ = network_of(CASES["an inverted residual"].model)
    with pytest.raises(ValidationError, match=problem):
        narrow(network, ["b"], keep)


def test_layers_that_are_no_set_are_not_narrowed() -> None:
    network, _ = network_of(CASES["a bottleneck"].model)
    with pytest.raises(ValidationError, match="are not one set"):
        narrow(network, ["b", "d"], [0])
    with pytest.raises(ValidationError, match="residual stream"):
        narrow(network, ["a"], [0])
    with pytest.raises(ValidationError, match="not made by a layer"):
        narrow(network, ["x"], [0])


def test_all_channels_leave_the_network_as_it_is() -> None:
    for case in CASES.values():
        network, loaded = network_of(case.model)
        before = export(network, loaded).SerializeToString(deterministic=True)
        for channels in case.expected:
            narrow(network, channels.makers, range(channels.count))
        assert export(network, loaded).SerializeToString(deterministic=True) == before


def test_sets_can_be_narrowed_one_by_one() -> None:
    for case in CASES.values():
        _, together = zeroed_and_narrowed(case.model, [(channels, [1]) for channels in case.expected])
        network, loaded = network_of(case.model)
        for channels in case.expected:
            narrow(network, channels.makers, [1], unseen=False)
        one_by_one = export(network, loaded)
        shapes = [sorted(tuple(tensor.dims) for tensor in one.graph.initializer) for one in (together, one_by_one)]
        assert shapes[0] == shapes[1]


def test_no_set_is_narrowed_twice() -> None:
    network, _ = network_of(CASES["squeeze and excitation"].model)
    with pytest.raises(ValidationError, match="twice"):
        narrow_together(network, [(["a"], [1]), (["s"], [1])], unseen=False)


def test_a_copy_keeps_the_channels() -> None:
    case = CASES["an inverted residual"]
    network, loaded = network_of(case.model)
    (channels,) = case.expected
    ignore(network, channels.readers, [1, 2])
    before = export(network, loaded).SerializeToString(deterministic=True)
    narrow(network.copy(), channels.makers, [0, 3, 4, 5])
    assert export(network, loaded).SerializeToString(deterministic=True) == before


def test_what_others_read_stays_as_it_is() -> None:
    """One slope and one shape that two layers read, of which one loses channels."""
    case = Case(
        """a = Conv3(x, w1) r = PRelu(a, slope) e = Expand(r, shape) b = Conv3(e, w2) s = PRelu(b, slope)
           t = Expand(s, shape) y = Add(t, b)""",
        {"w1": (4, 3, 3, 3), "slope": (4, 1, 1), "w2": (4, 4, 3, 3)},
        [(4, ("a",), (), (("b", "e", 0, 1),))],
        {"shape": (1, 4, 1, 1)},
    )
    zeroed, narrowed = zeroed_and_narrowed(case.model, [(case.expected[0], [1, 3])])
    assert_same(zeroed, narrowed, case.model)
    stored = {tensor.name: list(tensor.dims) for tensor in narrowed.graph.initializer}
    assert stored["slope"] == [4, 1, 1]


def test_stated_shapes_follow_the_channels() -> None:
    model = onnx.shape_inference.infer_shapes(CASES["squeeze and excitation"].model)
    (channels, squeezed) = CASES["squeeze and excitation"].expected
    _, narrowed = zeroed_and_narrowed(model, [(channels, [0, 5]), (squeezed, [1])])
    stated = {value.name: value for value in narrowed.graph.value_info}
    assert stated.keys() == {value.name for value in model.graph.value_info}
    bare = onnx.ModelProto.FromString(narrowed.SerializeToString())
    del bare.graph.value_info[:]
    assert stated == {value.name: value for value in onnx.shape_inference.infer_shapes(bare).graph.value_info}
