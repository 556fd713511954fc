"""Convolutions that a shortcut joins: solved for the sum, with the shortcut's own error."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from forms_for_tests import fit, judging
from models_for_tests import build, conv, photo, relu, residual, run_model, weights
from numpy.typing import NDArray
from onnx import helper

from onnx_lowrank import Result, compress
from onnx_lowrank.factorise.activations.curves import SILU
from onnx_lowrank.factorise.activations.relu import RELU, Activation, apply
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.fit import Fit
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import plan_only
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.stages.request import Request

Array = NDArray[Any]
EPS32 = float(np.finfo(np.float32).eps)


# ---- one layer


def layer(seed: int, n: int = 4000, d: int = 10) -> tuple[Array, Array, Array, Array]:
    """x̂, y, ŝ and s, [n, d] each: what reaches the layer and its shortcut has been approximated before."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n, d)) * 0.8 ** np.arange(d)
    y = common @ rng.standard_normal((d, d))
    s = 0.5 * common @ rng.standard_normal((d, d)) + 0.5 * rng.standard_normal((n, d))
    x = y + 0.2 * common @ rng.standard_normal((d, d))
    shortcut = s + 0.3 * np.tanh(common @ rng.standard_normal((d, d)))
    float32 = tuple(values.astype(np.float32) for values in (x, y, shortcut, s))
    return float32[0], float32[1], float32[2], float32[3]


def solve(X: Array, targets: Array, shortcut: Array | None, activation: Activation | None, rank: int = 4) -> Fit:
    d = targets.shape[1]
    return fit(Rows(X, targets, judging(len(X)), shortcut), np.eye(d), rank, activation, nonlinear=True)


def error(solution: Fit, X: Array, targets: Array, shortcut: Array, activation: Activation | None) -> float:
    wanted = apply(activation, targets).astype(np.float64)
    reached = apply(activation, solution.map(X) + shortcut).astype(np.float64)
    return float(np.square(reached - wanted).sum() / np.square(wanted).sum())


def test_without_error_the_linear_problem_is_that_of_the_response_alone() -> None:
    x, y, _, s = layer(0)
    joined, plain = solve(x, y + s, s, None), solve(x, y, None, None)
    assert joined.ridge == plain.ridge
    np.testing.assert_allclose(joined.map(x), plain.map(x), atol=1e3 * EPS32 * np.abs(y).max())


@pytest.mark.parametrize("activation", [RELU, SILU], ids=["Relu", "SiLU"])
def test_a_constant_shortcut_without_error_is_the_plain_problem_on_shifted_data(activation: Activation) -> None:
    x, y, _, _ = layer(1)
    s = np.broadcast_to(np.linspace(-2, 2, y.shape[1]).astype(np.float32), y.shape)
    joined, plain = solve(x, y + s, s.copy(), activation), solve(x, y + s, None, activation)
    assert (joined.ridge, joined.iterations) == (plain.ridge, plain.iterations)
    assert joined.error_linear == pytest.approx(plain.error_linear, rel=1e-4)
    assert joined.error_nonlinear == pytest.approx(plain.error_nonlinear, rel=1e-4)
    np.testing.assert_allclose(joined.map(x) + s, plain.map(x), atol=1e4 * EPS32 * np.abs(y).max())


def test_full_rank_without_error_is_the_identity() -> None:
    _, y, _, s = layer(2)
    full = solve(y, y + s, s, RELU, rank=y.shape[1])
    np.testing.assert_allclose(full.map(y), y, atol=1e3 * EPS32 * np.abs(y).max())


@pytest.mark.parametrize("activation", [None, RELU, SILU], ids=["none", "Relu", "SiLU"])
@pytest.mark.parametrize("rank", [2, 5, 10])
def test_the_shortcuts_error_is_absorbed_on_unseen_rows(activation: Activation | None, rank: int) -> None:
    for seed in range(4):
        x, y, shortcut, s = layer(seed, n=8000)
        seen, unseen = slice(0, 5000), slice(5000, None)
        sums = y + s
        joined = solve(x[seen], sums[seen], shortcut[seen], activation, rank)
        alone = solve(x[seen], y[seen], None, None, rank)
        errors = [error(own, x[unseen], sums[unseen], shortcut[unseen], activation) for own in (joined, alone)]
        assert errors[0] < errors[1]


@pytest.mark.parametrize("activation", [None, RELU, SILU], ids=["none", "Relu", "SiLU"])
def test_the_judges_never_like_the_solution_without_the_shortcut_better(activation: Activation | None) -> None:
    for seed in range(6):
        x, y, shortcut, s = layer(seed)
        judges = judging(len(x))
        joined, alone = solve(x, y + s, shortcut, activation), solve(x, y, None, None)
        assert joined.error <= error(alone, x[judges], (y + s)[judges], shortcut[judges], activation)


# ---- whole networks


def gated(x: str, y: str) -> list[Any]:
    return [helper.make_node("Sigmoid", [x], [f"{y}_gate"]), helper.make_node("Mul", [x, f"{y}_gate"], [y])]


def rectified(x: str, y: str) -> list[Any]:
    return [relu(x, y)]


def blocks(activate: Callable[[str, str], list[Any]], count: int = 3, d: int = 12) -> onnx.ModelProto:
    """Residual blocks as classifiers have them: the first with a projection that the file lists last."""
    stored = {"w_stem": weights(1, d, 3, 3, 3)}
    nodes = [conv("stem", "x", "w_stem", "c"), *activate("c", "r0")]
    for i in range(count):
        stored |= {f"w{i}{part}": 2 * weights(10 * i + k, d, d, 3, 3) for k, part in enumerate("ab", 2)}
        shortcut = f"r{i}"
        nodes += [
            conv(f"conv{i}a", f"r{i}", f"w{i}a", f"a{i}", strides=[2 if i == 0 else 1] * 2),
            *activate(f"a{i}", f"b{i}"),
            conv(f"conv{i}b", f"b{i}", f"w{i}b", f"d{i}"),
        ]
        if i == 0:
            stored["w_projection"] = weights(99, d, d, 1, 1)
            shortcut = "projected"
            nodes.append(conv("projection", "r0", "w_projection", shortcut, pads=[0] * 4, strides=[2, 2]))
        last = "y" if i == count - 1 else f"r{i + 1}"
        nodes += [helper.make_node("Add", [f"d{i}", shortcut], [f"s{i}"]), *activate(f"s{i}", last)]
    return build(nodes, stored)


def pre_activated(count: int = 3, d: int = 12) -> onnx.ModelProto:
    """Residual blocks whose sums go on as they are, while a ReLU of them goes into the next block."""
    stored = {"w_stem": weights(1, d, 3, 3, 3)}
    nodes = [conv("stem", "x", "w_stem", "s0")]
    for i in range(count):
        stored |= {f"w{i}{part}": weights(10 * i + k, d, d, 3, 3) for k, part in enumerate("ab", 2)}
        nodes += [
            relu(f"s{i}", f"r{i}"),
            conv(f"conv{i}a", f"r{i}", f"w{i}a", f"a{i}"),
            relu(f"a{i}", f"b{i}"),
            conv(f"conv{i}b", f"b{i}", f"w{i}b", f"d{i}"),
            helper.make_node("Add", [f"s{i}", f"d{i}"], [f"s{i + 1}"]),
        ]
    nodes.append(relu(f"s{count}", "y"))
    return build(nodes, stored)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "post-activation": lambda: blocks(rectified),
    "SiLU": lambda: blocks(gated),
    "pre-activation": pre_activated,
}
networks = pytest.mark.parametrize("name", NETWORKS)


def smooth_photos(count: int, seed: int = 7) -> Array:
    """Photos whose pixels resemble their neighbours, as those of real ones do."""
    noise = photo(seed, (count, 3, 15, 13))
    return np.asarray(sum(noise[:, :, i : i + 12, j : j + 10] for i in range(4) for j in range(4)) / 4, np.float32)


def at_rank(model: onnx.ModelProto, share: float) -> Plan:
    """Every site in the channel form, at a share of its filters."""
    sites = plan_only(Request(model, smooth_photos(4), options=Options(speedup=1, threads=1))).sites
    return Plan(tuple(SitePlan(s.name, "channel", (max(1, round(share * s.channels[1])),)) for s in sites))


def run(model: onnx.ModelProto, plan: Plan, **options: Any) -> Result:
    return compress(model, smooth_photos(80), plan=plan, threads=1, **options)


def unseen_error(model: onnx.ModelProto, result: Result) -> float:
    feeds = {"x": smooth_photos(20, seed=123)}
    expected, outputs = run_model(model, feeds)["y"], run_model(result.model, feeds)["y"]
    return float(np.square(outputs - expected).sum() / np.square(expected).sum())


@networks
@pytest.mark.parametrize("symmetric", [False, True])
def test_full_rank_reproduces_a_residual_network(name: str, symmetric: bool) -> None:
    model = NETWORKS[name]()
    result = run(model, at_rank(model, 1.0), symmetric=symmetric)
    assert unseen_error(model, result) < 1e-9


@networks
@pytest.mark.parametrize("solver", ["linear", "nonlinear"])
def test_solving_for_the_sum_is_better_than_ignoring_the_shortcut(name: str, solver: str) -> None:
    model = NETWORKS[name]()
    plan = at_rank(model, 0.5)
    aware, blind = (unseen_error(model, run(model, plan, solver=solver, residual=which)) for which in (True, False))
    # The linear solution is not made for what lies behind the activation, so there a small loss is possible.
    assert aware < (blind if solver == "nonlinear" else 1.05 * blind)


def test_the_report_says_what_a_layer_is_solved_for() -> None:
    model = blocks(rectified, count=2)
    solved_for = {}
    for aware in (True, False):
        sites = run(model, at_rank(model, 0.5), residual=aware).report.sites
        solved_for[aware] = {site.name: (site.shortcut, site.activation) for site in sites}
    within = {"conv0a": (None, "Relu"), "conv1a": (None, "Relu")}
    assert solved_for[True] == within | {
        "conv0b": ("projected", "Relu"),
        "projection": ("d0", "Relu"),
        "conv1b": ("r1", "Relu"),
    }
    assert solved_for[False] == within | dict.fromkeys(("conv0b", "projection", "conv1b"), (None, None))


def test_only_a_projection_is_computed_ahead_of_its_turn() -> None:
    model = blocks(rectified)
    plan = at_rank(model, 0.5)
    aware, blind = (run(model, plan, residual=which).report for which in (True, False))
    one_projection = 12 * 12 * 6 * 5 / aware.macs.before
    assert aware.cost.forward_passes - blind.cost.forward_passes == pytest.approx(one_projection, rel=1e-6)


def test_a_shortcut_is_at_hand_wherever_activations_are_kept() -> None:
    model = blocks(rectified)
    plan = at_rank(model, 0.5)
    large = run(model, plan)
    small = run(model, plan, memory=64 << 20)  # enough for all rows, and not for the process itself
    assert small.model.SerializeToString(deterministic=True) == large.model.SerializeToString(deterministic=True)


def spread(nodes: Sequence[Any]) -> onnx.ModelProto:
    """A convolution, "main", whose response c meets a shortcut s made of its input r."""
    stored = {"w0": weights(1, 8, 3, 1, 1), "w": weights(2, 8, 8, 3, 3)}
    everything = [conv("stem", "x", "w0", "c0", pads=[0] * 4), relu("c0", "r"), *nodes, conv("main", "r", "w", "c")]
    return build([*everything, helper.make_node("Add", ["c", "s"], ["a"]), relu("a", "y")], stored)


@pytest.mark.parametrize("axes", [[2, 3], [1], [1, 2, 3]])
def test_a_shortcut_that_is_spread_over_the_response_does_not_join(axes: list[int]) -> None:
    model = spread([helper.make_node("ReduceMean", ["r"], ["s"], axes=axes, keepdims=1)])
    (site,) = run(model, at_rank(model, 0.5)).report.sites
    assert (site.shortcut, site.activation) == (None, None)


def test_a_shortcut_that_the_samples_of_a_batch_share_is_taken_for_each_of_them() -> None:
    model = spread([helper.make_node("ReduceMean", ["r"], ["s"], axes=[0], keepdims=1)])
    (site,) = run(model, at_rank(model, 0.5)).report.sites
    assert (site.shortcut, site.activation) == ("s", "Relu")


def test_ranks_are_chosen_for_the_response_not_for_the_sum() -> None:
    """A response of rank 2 loses nothing at rank 2, whatever its shortcut is."""
    stored = {
        "w0": weights(1, 8, 3, 3, 3),
        "w": (weights(2, 8, 2) @ weights(3, 2, 72)).reshape(8, 8, 3, 3),
        "w1": weights(4, 8, 8, 3, 3),
    }
    nodes = [
        conv("stem", "x", "w0", "c0"), relu("c0", "r0"), conv("low", "r0", "w", "c1"),
        helper.make_node("Add", ["c1", "r0"], ["a1"]), relu("a1", "r1"), conv("full", "r1", "w1", "y"),
    ]  # fmt: skip
    model = build(nodes, stored)
    planned = plan_only(Request(model, smooth_photos(20), options=Options(speedup=1.5, form="channel", threads=1)))
    assert {site.name: site.ranks for site in planned.sites}["low"] == {"d'": 2}


def test_the_small_network_of_the_other_tests_has_joins() -> None:
    sites = {
        site.name: site
        for site in plan_only(Request(residual(), photo(1, (4, 3, 12, 10)), options=Options(speedup=1))).sites
    }
    assert {name for name, site in sites.items() if site.shortcut} == {"conv2", "conv3", "shortcut", "conv4"}
