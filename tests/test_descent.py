"""Properties of the joint refinement of all factors."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations import curves
from onnx_lowrank.factorise.activations.piecewise import leaky_relu
from onnx_lowrank.factorise.activations.relu import DIFFERENCE, RELU, Activation, apply
from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.forms import cp, spatial
from onnx_lowrank.factorise.forms.form import Cuts, Form, make_form
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve import descent
from onnx_lowrank.factorise.solve.alternation import fit
from onnx_lowrank.factorise.solve.descent import _Judge, _Steps, finish, refine
from onnx_lowrank.factorise.solve.layer import solve

Array = NDArray[Any]
EPS32 = float(np.finfo(np.float32).eps)

FORMS = ("channel", "spatial", "3d", "cp")
ACTIVATIONS: dict[str, Activation | None] = {
    "none": None,
    "Relu": RELU,
    "LeakyRelu": leaky_relu(0.1),
    "SiLU": curves.SILU,
}

D, C, SIZE = 10, 4, (3, 2)
RANKS = {"channel": (3,), "spatial": (4,), "3d": (4, 3), "cp": (7,)}


def sample(seed: int, n: int = 3000, mean: float = 0.3, scale: float = 1.0) -> tuple[Array, Array, Array]:
    """A kernel [d, c, k, l], correlated patches [n, c, k, l] of it, and its responses [n, d] with a bias."""
    rng = np.random.default_rng(seed)
    size = C * SIZE[0] * SIZE[1]
    kernel = rng.standard_normal((D, C, *SIZE)) / np.sqrt(size)
    mixing = rng.standard_normal((size, size)) * 0.85 ** np.arange(size)
    patches = (scale * (rng.standard_normal((n, size)) @ mixing.T + mean)).astype(np.float32).reshape(n, C, *SIZE)
    targets = np.einsum("nchw,dchw->nd", patches, kernel) + scale * rng.standard_normal(D) / 2
    return kernel, patches, targets.astype(np.float32)


def form_of(name: str, kernel: Array, patches: Array) -> Form:
    columns = spatial.cut(kernel, spatial.ColumnMoments(patches).covariance)
    polyadic = cp.Polyadic.of(kernel, cp.PixelMoments(patches).covariances)
    return make_form(name, kernel, RANKS[name], Cuts(columns, polyadic))


def judges(n: int) -> NDArray[np.bool_]:
    return np.asarray(np.arange(n) % 5 == 2)


def problem(name: str, seed: int, activation: Activation | None, n: int = 3000, joined: bool = False) -> Any:
    """(form, rows, the state from which the solver refines)."""
    kernel, patches, targets = sample(seed, n)
    form = form_of(name, kernel, patches)
    rng = np.random.default_rng(seed + 1)
    shortcut = None
    if joined:
        original = rng.standard_normal(targets.shape).astype(np.float32)
        shortcut = original + np.float32(0.1) * rng.standard_normal(targets.shape).astype(np.float32)
        targets = targets + original
    rows = Rows(form.inputs(patches), targets, judges(n), shortcut)
    best = fit(replace(rows, regressors=form.regressors(rows.regressors)), form.prior, form.rank, activation,
               nonlinear=True)  # fmt: skip
    return form, rows, form.chain(best.judged)


def moved(chain: Chain, seed: int, amount: float) -> Chain:
    """A chain whose first factor is off by a share of its size."""
    noise = np.random.default_rng(seed).standard_normal(chain.first.shape)
    first = chain.first + amount * np.sqrt(np.mean(np.square(chain.first))) * noise
    return replace(chain, first=first)


def judged(chain: Chain, rows: Rows, activation: Activation | None) -> float:
    return _Judge(rows, np.flatnonzero(rows.judges), activation)(chain)


def magnitude(chain: Chain, inputs: Array) -> float:
    """What the terms of the predictions add up to at most: their round-off is a share of it, not of the sum."""
    terms = np.abs(inputs.astype(np.float64)) @ np.abs(chain.first).T
    rows = terms.reshape(len(inputs), -1) if chain.taps is None else (terms * np.abs(chain.taps)).sum(axis=1)
    for matrix in chain.rest:
        rows = rows @ np.abs(matrix).T
    return float((rows + np.abs(chain.bias)).max())


def same(a: Chain, b: Chain) -> bool:
    taps = [np.zeros(0) if x.taps is None else x.taps for x in (a, b)]
    pairs = zip((a.first, taps[0], *a.rest, a.bias), (b.first, taps[1], *b.rest, b.bias), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


# ---- the chain


@pytest.mark.parametrize("name", FORMS)
def test_a_chain_predicts_what_its_convolutions_do(name: str) -> None:
    form, rows, chain = problem(name, 0, RELU)
    _, patches, _ = sample(0)
    composed = form.compose(chain)
    expected = np.einsum("nchw,dchw->nd", patches.astype(np.float64), composed.dense()) + composed.bias
    predicted = chain(rows.regressors)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, expected, atol=8 * EPS32 * magnitude(chain, rows.regressors))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (300.0, 1.0), (0.3, 1e4), (0.3, 1e-5), (1e3, 1e-3)])
def test_before_any_step_the_state_is_the_start(name: str, mean: float, scale: float) -> None:
    kernel, patches, targets = sample(1, 800, mean, scale)
    form = form_of(name, kernel, patches)
    inputs = form.inputs(patches)
    rows = Rows(inputs, targets, judges(len(targets)))
    best = fit(replace(rows, regressors=form.regressors(inputs)), form.prior, form.rank, RELU, nonlinear=False)
    start = form.chain(best.judged)
    again = _Steps(start, rows, RELU).chain
    # Predictions, not factors, are compared: V is as exact as the whitening lets it be in directions that never occur.
    some = inputs[:50]
    np.testing.assert_allclose(again(some), start(some), atol=64 * EPS32 * magnitude(start, some))


# ---- the gradient


def objective(steps: _Steps, factors: list[Array], rows: Rows, taken: NDArray[np.intp], activation: Any) -> float:
    """Half the mean squared error of the rows in units of the scale, in float64."""
    A, *rest, bias = (factor.astype(np.float64) for factor in factors)
    u = rows.regressors[taken].astype(np.float64) - steps._mean
    f = u @ (A @ steps._unwhiten.astype(np.float64)).T
    f = (f * rest.pop(0)).sum(axis=1) if steps._tapped else f.reshape(len(u), -1)
    for matrix in rest:
        f = f @ matrix.T
    response = (f + bias) * float(steps._scale)
    if rows.shortcut is not None:
        response = response + rows.shortcut[taken]
    difference = apply(activation, response) - apply(activation, rows.targets[taken].astype(np.float64))
    return float(np.square(difference / float(steps._scale)).sum() / (2 * len(taken)))


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", FORMS)
def test_a_step_follows_the_gradient_of_the_objective(name: str, activation: str, joined: bool) -> None:
    r = ACTIVATIONS[activation]
    _, rows, start = problem(name, 2, r, 400, joined)
    steps = _Steps(moved(start, 3, 0.3), rows, r)
    taken = np.arange(7, 207)
    gradients = steps.gradients(taken)
    rng = np.random.default_rng(4)
    assert len(gradients) == len(steps._factors)
    for i, gradient in enumerate(gradients):
        assert gradient.shape == steps._factors[i].shape
        for _ in range(3):
            direction = rng.standard_normal(gradient.shape) * np.abs(steps._factors[i]).mean()
            h = 1e-5  # in float64; so small that hardly any row crosses a kink
            ends = []
            for sign in (1, -1):
                factors = [factor.astype(np.float64) for factor in steps._factors]
                factors[i] = factors[i] + sign * h * direction
                ends.append(objective(steps, factors, rows, taken, r))
            difference = (ends[0] - ends[1]) / (2 * h)
            size = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
            # The slope is itself a difference over DIFFERENCE: what lies nearer than that to a kink gets a mixed one.
            assert float(np.vdot(gradient, direction)) == pytest.approx(difference, abs=2 * DIFFERENCE * size)


# ---- the refinement


@given(
    name=st.sampled_from(FORMS),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    joined=st.booleans(),
    n=st.sampled_from([8, 30, 200, 1500]),
    amount=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 500),
)
@settings(max_examples=40, deadline=None)
def test_the_judges_never_see_it_lose(
    name: str, activation: str, joined: bool, n: int, amount: float, seed: int
) -> None:
    r = ACTIVATIONS[activation]
    _, rows, start = problem(name, seed, r, n, joined)
    start = moved(start, seed, amount)
    refined = refine(start, rows, r, seed)
    assert refined.error <= judged(start, rows, r)
    assert (refined.epochs == 0) == same(refined.chain, start)
    assert np.isfinite(refined.chain(rows.regressors)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", FORMS)
def test_a_bad_first_factor_is_mended_for_unseen_rows(name: str, activation: str) -> None:
    r = ACTIVATIONS[activation]
    _, rows, start = problem(name, 5, r, 24_000)
    start = moved(start, 6, 0.5)
    seen = Rows(rows.regressors[:16_000], rows.targets[:16_000], judges(16_000))
    unseen = Rows(rows.regressors[16_000:], rows.targets[16_000:], np.ones(8_000, bool))
    refined = refine(start, seen, r)
    assert refined.epochs > 0
    assert judged(refined.chain, unseen, r) < 0.8 * judged(start, unseen, r)


@pytest.mark.parametrize("name", FORMS)
def test_noise_is_not_learnt_from_few_rows(name: str) -> None:
    rng = np.random.default_rng(7)
    kernel, patches, _ = sample(7, 60)
    form = form_of(name, kernel, patches)
    targets = rng.standard_normal((60, D)).astype(np.float32)
    rows = Rows(form.inputs(patches), targets, judges(60))
    regressors = form.regressors(rows.regressors)
    best = fit(replace(rows, regressors=regressors), form.prior, form.rank, RELU, nonlinear=True)
    start = form.chain(best.judged)
    refined = refine(start, rows, RELU)
    assert refined.epochs == 0 or refined.error < judged(start, rows, RELU)
    # What the judges approved of by chance does not carry far.
    fresh = Rows(
        form.inputs(sample(8, 4000)[1]), rng.standard_normal((4000, D)).astype(np.float32), np.ones(4000, bool)
    )
    assert judged(refined.chain, fresh, RELU) <= 1.1 * judged(start, fresh, RELU)


@pytest.mark.parametrize("mask", [np.zeros(300, bool), np.ones(300, bool), np.arange(300) > 0])
def test_without_rows_on_both_sides_the_start_is_returned(mask: NDArray[np.bool_]) -> None:
    _, rows, start = problem("3d", 9, RELU, 300)
    refined = refine(moved(start, 9, 0.5), replace(rows, judges=mask), RELU)
    assert refined.epochs == 0 and same(refined.chain, moved(start, 9, 0.5))


@pytest.mark.parametrize("name", FORMS)
def test_a_pass_that_would_take_too_long_is_not_begun(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows, start = problem(name, 9, RELU)
    start = moved(start, 9, 0.5)
    assert refine(start, rows, RELU).epochs > 0
    monkeypatch.setattr(descent, "MOST_WORK", 1e3)
    refined = refine(start, rows, RELU)
    assert refined.epochs == 0 and same(refined.chain, start)


@pytest.mark.parametrize("n", [3, 5, 17, 600, 1100, 2600])
def test_every_batch_holds_rows(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows, start = problem("spatial", 10, RELU, n)
    sizes: list[int] = []
    take = _Steps.take

    def counted(self: _Steps, taken: NDArray[np.intp], rate: float) -> None:
        sizes.append(len(taken))
        take(self, taken, rate)

    monkeypatch.setattr(_Steps, "take", counted)
    refine(moved(start, 10, 0.5), rows, RELU)
    assert sizes and min(sizes) > 0


def test_the_same_seed_gives_the_same_bits_and_leaves_the_rows_alone() -> None:
    _, rows, start = problem("3d", 11, RELU)
    before = rows.regressors.copy(), rows.targets.copy()
    start = moved(start, 12, 0.3)
    first, second, other = (refine(start, rows, RELU, seed) for seed in (0, 0, 1))
    assert first.epochs > 0 and same(first.chain, second.chain) and first.error == second.error
    assert not same(first.chain, other.chain)
    np.testing.assert_array_equal(rows.regressors, before[0])
    np.testing.assert_array_equal(rows.targets, before[1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dead", ["inputs", "targets", "both"])
def test_a_dead_layer_gives_finite_factors(name: str, activation: str, dead: str) -> None:
    kernel, patches, targets = sample(13, 300)
    patches, targets = (values * (dead not in (which, "both")) for values, which in
                        ((patches, "inputs"), (targets, "targets")))  # fmt: skip
    form = form_of(name, kernel, patches)
    rows = Rows(form.inputs(patches), targets, judges(300))
    chain, best = solve(form, rows, ACTIVATIONS[activation], nonlinear=True)
    assert all(np.isfinite(factor).all() for factor in (chain.first, *chain.rest, chain.bias))
    assert np.isfinite(chain(rows.regressors)).all() and np.isfinite(best.error_linear)


def test_a_state_that_is_not_a_number_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows, start = problem("channel", 14, RELU)

    def broken(self: _Steps, taken: NDArray[np.intp], rate: float) -> None:
        self._factors[-1] = np.full_like(self._factors[-1], np.nan)

    monkeypatch.setattr(_Steps, "take", broken)
    refined = refine(start, rows, RELU)
    assert refined.epochs == 0 and same(refined.chain, start)


@pytest.mark.parametrize("name", FORMS)
def test_the_last_pass_learns_from_the_judging_rows_too(name: str) -> None:
    """With a tenth of the rows solving, what the others are worth shows on unseen ones."""
    _, rows, start = problem(name, 15, RELU, 24_000)
    few = Rows(rows.regressors[:16_000], rows.targets[:16_000], np.arange(16_000) % 10 != 0)
    unseen = Rows(rows.regressors[16_000:], rows.targets[16_000:], np.ones(8_000, bool))
    refined = refine(moved(start, 16, 0.5), few, RELU)
    assert judged(finish(refined, few, RELU), unseen, RELU) < judged(refined.chain, unseen, RELU)


# ---- the layer as a whole


@given(
    name=st.sampled_from(FORMS),
    activation=st.sampled_from(["Relu", "LeakyRelu", "SiLU"]),
    joined=st.booleans(),
    n=st.sampled_from([15, 100, 1500]),
    seed=st.integers(0, 500),
)
@settings(max_examples=25, deadline=None)
def test_what_is_refined_beats_the_linear_solution_for_the_judges(
    name: str, activation: str, joined: bool, n: int, seed: int
) -> None:
    r = ACTIVATIONS[activation]
    form, rows, _ = problem(name, seed, r, n, joined)
    _, linear = solve(form, rows, r, nonlinear=False)
    _, best = solve(form, rows, r, nonlinear=True)
    assert linear.error_nonlinear is None and linear.epochs == 0
    assert best.error_linear == linear.error_linear and best.error_nonlinear is not None
    if best.epochs or best.iterations:
        assert best.error_nonlinear < best.error_linear
