"""Properties of the joint refinement of all factors."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from forms_for_tests import dense, every_kind, fit, form_at, highest_ranks, judging
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations import curves
from onnx_lowrank.factorise.activations.piecewise import leaky_relu
from onnx_lowrank.factorise.activations.relu import DIFFERENCE, RELU, Activation, apply
from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.factorise.forms.three_d import THREE_D
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.coordinates import Coordinates, Objective
from onnx_lowrank.factorise.solve.descent import BATCH, EPOCHS, LOOKS, finish, mini_batches, refine
from onnx_lowrank.factorise.solve.layer import solve

Array = NDArray[Any]
EPS32 = float(np.finfo(np.float32).eps)

ACTIVATIONS: dict[str, Activation | None] = {
    "none": None,
    "Relu": RELU,
    "LeakyRelu": leaky_relu(0.1),
    "SiLU": curves.SILU,
}

D, C, SIZE = 10, 4, (3, 2)


def sample(seed: int, n: int = 3000, mean: float = 0.3, scale: float = 1.0) -> tuple[Array, Array, Array]:
    """A kernel [d, c, k, l], correlated patches [n, c, k, l] of it, and its responses [n, d] with a bias."""
    rng = np.random.default_rng(seed)
    size = C * SIZE[0] * SIZE[1]
    kernel = rng.standard_normal((D, C, *SIZE)) / np.sqrt(size)
    mixing = rng.standard_normal((size, size)) * 0.85 ** np.arange(size)
    patches = (scale * (rng.standard_normal((n, size)) @ mixing.T + mean)).astype(np.float32).reshape(n, C, *SIZE)
    targets = np.einsum("nchw,dchw->nd", patches, kernel) + scale * rng.standard_normal(D) / 2
    return kernel, patches, targets.astype(np.float32)


def low_rank(kind: FormKind, kernel: Array, patches: Array) -> Form:
    """A form at 0.3 of its highest ranks."""
    ranks = tuple(max(1, round(0.3 * highest)) for highest in highest_ranks(kind, kernel))
    return form_at(kind, kernel, ranks, patches)


def problem(
    kind: FormKind, seed: int, activation: Activation | None, n: int = 3000, joined: bool = False
) -> tuple[Form, Rows, Chain]:
    """A form, samples, and the state from which the solver refines."""
    kernel, patches, targets = sample(seed, n)
    form = low_rank(kind, kernel, patches)
    rng = np.random.default_rng(seed + 1)
    shortcut = None
    if joined:
        original = rng.standard_normal(targets.shape).astype(np.float32)
        shortcut = original + np.float32(0.1) * rng.standard_normal(targets.shape).astype(np.float32)
        targets = targets + original
    rows = Rows(form.inputs(patches), targets, judging(n), shortcut)
    return form, rows, start_of(form, rows, activation, nonlinear=True)


def start_of(form: Form, rows: Rows, activation: Activation | None, *, nonlinear: bool) -> Chain:
    """The state that the alternation or the regression reaches without the judging rows."""
    regressed = replace(rows, regressors=form.regressors(rows.regressors))
    return form.chain(fit(regressed, form.prior, form.rank, activation, nonlinear=nonlinear).judged)


def moved(chain: Chain, seed: int, amount: float) -> Chain:
    """A chain whose first factor is off by a share of its size."""
    noise = np.random.default_rng(seed).standard_normal(chain.first.shape)
    first = chain.first + amount * np.sqrt(np.mean(np.square(chain.first))) * noise
    return replace(chain, first=first)


def relative_error(chain: Chain, rows: Rows, activation: Activation | None) -> float:
    """Behind the activation, on the judging rows."""
    predicted = chain(rows.regressors[rows.judges])
    if rows.shortcut is not None:
        predicted += rows.shortcut[rows.judges]
    target = apply(activation, rows.targets[rows.judges]).astype(np.float64)
    difference = apply(activation, predicted).astype(np.float64) - target
    return float(np.square(difference).sum() / np.square(target).sum())


def exactly(chain: Chain, inputs: Array) -> Array:
    """The predictions of a chain in float64."""
    columns = inputs.astype(np.float64) @ chain.first.T
    rows = columns.reshape(len(inputs), -1) if chain.taps is None else (columns * chain.taps).sum(axis=1)
    for matrix in chain.rest:
        rows = rows @ matrix.T
    return np.asarray(rows + chain.bias)


def magnitude(chain: Chain, inputs: Array) -> float:
    """What the terms of the predictions add up to at most: their round-off is a share of it, not of the sum."""
    return float(exactly(chain.with_factors([np.abs(factor) for factor in chain.factors]), np.abs(inputs)).max())


def same(a: Chain, b: Chain) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.factors, b.factors, strict=True))


# ---- the chain


@every_kind
def test_a_chain_predicts_what_its_convolutions_do(kind: FormKind) -> None:
    form, rows, chain = problem(kind, 0, RELU)
    _, patches, _ = sample(0)
    composed = form.compose(chain)
    expected = np.einsum("nchw,dchw->nd", patches.astype(np.float64), dense(composed)) + composed.bias
    predicted = chain(rows.regressors)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, expected, atol=8 * EPS32 * magnitude(chain, rows.regressors))


@every_kind
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (300.0, 1.0), (0.3, 1e4), (0.3, 1e-5), (1e3, 1e-3)])
def test_the_coordinates_of_the_descent_keep_the_start(kind: FormKind, mean: float, scale: float) -> None:
    kernel, patches, targets = sample(1, 800, mean, scale)
    form = low_rank(kind, kernel, patches)
    inputs = form.inputs(patches)
    rows = Rows(inputs, targets, judging(len(targets)))
    start = start_of(form, rows, RELU, nonlinear=False)
    coordinates = Coordinates.of(rows, RELU)
    again = coordinates.outward(coordinates.inward(start))
    # Predictions, not factors, are compared: V is as exact as the whitening lets it be in directions that never occur.
    some = inputs[:50]
    np.testing.assert_allclose(again(some), start(some), atol=64 * EPS32 * magnitude(start, some))


# ---- the gradient


def objective(chain: Chain, rows: Rows, taken: NDArray[np.intp], activation: Activation | None, scale: float) -> float:
    """Half the mean squared error of the rows in units of the scale, in float64."""
    response = exactly(chain, rows.regressors[taken])
    if rows.shortcut is not None:
        response = response + rows.shortcut[taken]
    difference = apply(activation, response) - apply(activation, rows.targets[taken].astype(np.float64))
    return float(np.square(difference / scale).sum() / (2 * len(taken)))


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@every_kind
def test_a_step_follows_the_gradient_of_the_objective(kind: FormKind, activation: str, joined: bool) -> None:
    r = ACTIVATIONS[activation]
    _, rows, start = problem(kind, 2, r, 400, joined)
    coordinates = Coordinates.of(rows, r)
    state = coordinates.inward(moved(start, 3, 0.3))
    taken = np.arange(7, 207)
    gradients = Objective(rows, r, coordinates).gradient(state, taken).factors
    rng = np.random.default_rng(4)
    exact = [factor.astype(np.float64) for factor in state.factors]
    assert len(gradients) == len(exact)
    for i, gradient in enumerate(gradients):
        assert gradient.shape == exact[i].shape
        for _ in range(3):
            direction = rng.standard_normal(gradient.shape) * np.abs(exact[i]).mean()
            h = 1e-5  # in float64; so small that hardly any row crosses a kink
            ends = []
            for sign in (1, -1):
                factors = [*exact[:i], exact[i] + sign * h * direction, *exact[i + 1 :]]
                chain = coordinates.outward(state.with_factors(factors))
                ends.append(objective(chain, rows, taken, r, float(coordinates.scale)))
            difference = (ends[0] - ends[1]) / (2 * h)
            size = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
            # The slope is itself a difference over DIFFERENCE: what lies nearer than that to a kink gets a mixed one.
            assert float(np.vdot(gradient, direction)) == pytest.approx(difference, abs=2 * DIFFERENCE * size)


# ---- the refinement


@given(
    kind=st.sampled_from(FORMS.kinds),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    joined=st.booleans(),
    n=st.sampled_from([8, 30, 200, 1500]),
    amount=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 500),
)
@settings(max_examples=40, deadline=None)
def test_the_judges_never_see_it_lose(
    kind: FormKind, activation: str, joined: bool, n: int, amount: float, seed: int
) -> None:
    r = ACTIVATIONS[activation]
    _, rows, start = problem(kind, seed, r, n, joined)
    start = moved(start, seed, amount)
    refined = refine(start, rows, r, seed)
    assert refined.error <= relative_error(start, rows, r) * (1 + 1e3 * EPS32)
    assert (refined.epochs == 0) == same(refined.chain, start)
    assert np.isfinite(refined.chain(rows.regressors)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@every_kind
def test_a_bad_first_factor_is_mended_for_unseen_rows(kind: FormKind, activation: str) -> None:
    r = ACTIVATIONS[activation]
    _, rows, start = problem(kind, 5, r, 24_000)
    start = moved(start, 6, 0.5)
    seen = Rows(rows.regressors[:16_000], rows.targets[:16_000], judging(16_000))
    unseen = Rows(rows.regressors[16_000:], rows.targets[16_000:], np.ones(8_000, bool))
    refined = refine(start, seen, r)
    assert refined.epochs > 0
    assert relative_error(refined.chain, unseen, r) < 0.8 * relative_error(start, unseen, r)


@every_kind
def test_noise_is_not_learnt_from_few_rows(kind: FormKind) -> None:
    rng = np.random.default_rng(7)
    kernel, patches, _ = sample(7, 60)
    form = low_rank(kind, kernel, patches)
    targets = rng.standard_normal((60, D)).astype(np.float32)
    rows = Rows(form.inputs(patches), targets, judging(60))
    start = start_of(form, rows, RELU, nonlinear=True)
    refined = refine(start, rows, RELU)
    assert refined.epochs == 0 or refined.error < relative_error(start, rows, RELU)
    # What the judges approved of by chance does not carry far.
    fresh = Rows(
        form.inputs(sample(8, 4000)[1]), rng.standard_normal((4000, D)).astype(np.float32), np.ones(4000, bool)
    )
    assert relative_error(refined.chain, fresh, RELU) <= 1.1 * relative_error(start, fresh, RELU)


@pytest.mark.parametrize("mask", [np.zeros(300, bool), np.ones(300, bool), np.arange(300) > 0])
def test_without_rows_on_both_sides_the_start_is_returned(mask: NDArray[np.bool_]) -> None:
    _, rows, start = problem(THREE_D, 9, RELU, 300)
    refined = refine(moved(start, 9, 0.5), replace(rows, judges=mask), RELU)
    assert refined.epochs == 0 and same(refined.chain, moved(start, 9, 0.5))


@every_kind
def test_a_pass_that_would_take_too_long_is_not_begun(kind: FormKind) -> None:
    _, rows, start = problem(kind, 9, RELU)
    start = moved(start, 9, 0.5)
    assert refine(start, rows, RELU).epochs > 0
    refined = refine(start, rows, RELU, most_work=1e3)
    assert refined.epochs == 0 and same(refined.chain, start)


@pytest.mark.parametrize("n", [LOOKS, 3, 5, 17, 600, 1100, 2600])
def test_every_batch_holds_rows_and_every_pass_holds_each_row_once_at_the_most(n: int) -> None:
    solving = np.flatnonzero(~judging(2 * n))[:n]
    looks = mini_batches(solving, 10)
    assert len(looks) == EPOCHS * LOOKS and len({len(batches) for batches in looks}) == 1
    order = np.concatenate([batch for batches in looks for batch in batches])
    assert {len(batch) for batches in looks for batch in batches} == {min(BATCH, n // LOOKS)}
    assert set(order) <= set(solving)
    assert max(np.count_nonzero(order == row) for row in solving) <= EPOCHS
    # What does not fill a batch before each look is left out.
    assert len(order) > EPOCHS * (n - LOOKS * min(BATCH, n // LOOKS))


def test_the_same_seed_gives_the_same_bits_and_leaves_the_rows_alone() -> None:
    _, rows, start = problem(THREE_D, 11, RELU)
    before = rows.regressors.copy(), rows.targets.copy()
    start = moved(start, 12, 0.3)
    first, second, other = (refine(start, rows, RELU, seed) for seed in (0, 0, 1))
    assert first.epochs > 0 and same(first.chain, second.chain) and first.error == second.error
    assert not same(first.chain, other.chain)
    np.testing.assert_array_equal(rows.regressors, before[0])
    np.testing.assert_array_equal(rows.targets, before[1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@every_kind
@pytest.mark.parametrize("dead", ["inputs", "targets", "both"])
def test_a_dead_layer_gives_finite_factors(kind: FormKind, activation: str, dead: str) -> None:
    kernel, patches, targets = sample(13, 300)
    patches, targets = (values * (dead not in (which, "both")) for values, which in
                        ((patches, "inputs"), (targets, "targets")))  # fmt: skip
    form = low_rank(kind, kernel, patches)
    rows = Rows(form.inputs(patches), targets, judging(300))
    chain, best = solve(form, rows, ACTIVATIONS[activation], nonlinear=True)
    assert all(np.isfinite(factor).all() for factor in (chain.first, *chain.rest, chain.bias))
    assert np.isfinite(chain(rows.regressors)).all() and np.isfinite(best.error_linear)


def test_a_state_that_is_not_a_number_is_never_chosen() -> None:
    _, rows, start = problem(CHANNEL, 14, RELU)
    targets = rows.targets.copy()
    targets[1::10] = np.nan  # rows that solve: every batch holds some of them, and every step leads to nowhere
    refined = refine(start, replace(rows, targets=targets), RELU)
    assert refined.epochs == 0 and same(refined.chain, start) and np.isfinite(refined.error)


@every_kind
def test_the_last_pass_learns_from_the_judging_rows_too(kind: FormKind) -> None:
    """With a tenth of the rows solving, what the others are worth shows on unseen ones."""
    _, rows, start = problem(kind, 15, RELU, 24_000)
    few = Rows(rows.regressors[:16_000], rows.targets[:16_000], np.arange(16_000) % 10 != 0)
    unseen = Rows(rows.regressors[16_000:], rows.targets[16_000:], np.ones(8_000, bool))
    refined = refine(moved(start, 16, 0.5), few, RELU)
    assert relative_error(finish(refined, few, RELU), unseen, RELU) < relative_error(refined.chain, unseen, RELU)


# ---- the layer as a whole


@given(
    kind=st.sampled_from(FORMS.kinds),
    activation=st.sampled_from(["Relu", "LeakyRelu", "SiLU"]),
    joined=st.booleans(),
    n=st.sampled_from([15, 100, 1500]),
    seed=st.integers(0, 500),
)
@settings(max_examples=25, deadline=None)
def test_what_is_refined_beats_the_linear_solution_for_the_judging(
    kind: FormKind, activation: str, joined: bool, n: int, seed: int
) -> None:
    r = ACTIVATIONS[activation]
    form, rows, _ = problem(kind, seed, r, n, joined)
    _, linear = solve(form, rows, r, nonlinear=False)
    _, best = solve(form, rows, r, nonlinear=True)
    assert linear.error_nonlinear is None and linear.epochs == 0
    assert best.error_linear == linear.error_linear and best.error_nonlinear is not None
    if best.epochs or best.iterations:
        assert best.error_nonlinear < best.error_linear
