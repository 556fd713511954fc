"""The z-step of every activation compared with a search on a grid, and the properties that all activations share."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from forms_for_tests import fit, judging
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations import curves, smooth
from onnx_lowrank.factorise.activations.piecewise import (
    PiecewiseLinear,
    clip,
    hard_sigmoid,
    leaky_relu,
    prelu,
)
from onnx_lowrank.factorise.activations.relu import RELU, Activation, apply
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.alternation import SCHEDULE

Array = NDArray[Any]
EPS32 = float(np.finfo(np.float32).eps)

STRAIGHT: dict[str, Activation] = {
    "Relu": RELU,
    "Relu6": clip(0, 6),
    "Clip": clip(-1, 1.5),
    "Clip from below": clip(-0.5, math.inf),
    "Clip from above": clip(-math.inf, 2),
    "Clip to a point": clip(1, 1),
    "LeakyRelu": leaky_relu(0.01),
    "LeakyRelu, steep": leaky_relu(2.5),
    "LeakyRelu, falling": leaky_relu(-0.5),
    "PRelu": prelu((0.25, -0.3, 0.0, 2.0)),
    "PRelu, shared": prelu((0.25,)),
    "HardSigmoid": hard_sigmoid(0.2, 0.5),
}
CURVED: dict[str, smooth.Smooth] = {
    "Sigmoid": curves.SIGMOID,
    "Tanh": curves.TANH,
    "SiLU": curves.SILU,
    "Gelu": curves.GELU,
    "Gelu (tanh)": curves.GELU_TANH,
    "Mish": curves.MISH,
    "HardSwish": curves.HARD_SWISH,
    "Elu": curves.elu(1.0),
    "Elu, flat": curves.elu(0.3),
    "Elu, steep": curves.elu(2.5),
}
EVERY: dict[str, Activation] = {**STRAIGHT, **CURVED}

WEIGHTS = (0.02, *sorted(set(SCHEDULE)), 10.0)


def pairs(seed: int, spread: float, n: int = 60, d: int = 4) -> tuple[Array, Array]:
    """Return responses y and predictions ŷ [n, d] of both signs; half of the predictions are independent of y."""
    rng = np.random.default_rng(seed)
    y = spread * rng.standard_normal((n, d))
    mixture = rng.uniform(size=(n, 1)) < 0.5
    return y, np.where(mixture, y, 0) + spread * rng.standard_normal((n, d))


def cost(activation: Activation, target: Array, prediction: Array, weight: float, z: Array) -> Array:
    return np.asarray(np.square(target - activation.apply(z)) + weight * np.square(z - prediction))


def least_on_a_grid(activation: Activation, target: Array, prediction: Array, weight: float) -> Array:
    # Further from ŷ the second term alone costs more than z = ŷ does, so no better z lies there.
    reach = float((np.abs(target - activation.apply(prediction)) / math.sqrt(weight)).max())
    grid = np.linspace(prediction.min() - reach, prediction.max() + reach, 16_001)
    least = np.full(target.shape, np.inf)
    d = target.shape[1]
    for part in np.array_split(grid, 100):
        r = activation.apply(np.repeat(part[:, None], d, axis=1))
        costs = np.square(target - r[:, None, :]) + weight * np.square(part[:, None, None] - prediction)
        least = np.minimum(least, costs.min(axis=0))
    return least


@pytest.mark.parametrize("spread", [1.0, 8.0])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", STRAIGHT)
def test_z_step_of_straight_pieces_is_the_minimum(name: str, weight: float, spread: float) -> None:
    activation = STRAIGHT[name]
    y, prediction = pairs(0, spread)
    target = activation.apply(y)
    z = activation.z_step(target, prediction, weight)
    best = least_on_a_grid(activation, target, prediction, weight)
    assert (cost(activation, target, prediction, weight, z) <= best + 1e-12).all()


@pytest.mark.parametrize("spread", [1.0, 8.0])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", CURVED)
def test_z_step_of_a_curve_is_near_the_minimum_and_never_worse_than_the_prediction(
    name: str, weight: float, spread: float
) -> None:
    activation = CURVED[name]
    y, prediction = pairs(1, spread)
    target = activation.apply(y)
    z = activation.z_step(target, prediction, weight)
    reached = cost(activation, target, prediction, weight, z)
    best = least_on_a_grid(activation, target, prediction, weight)
    assert (reached - best <= 1e-2 * (1 + best)).all()
    assert (reached - best).mean() <= 1e-4 * (best.mean() + 1e-2)
    assert (reached <= cost(activation, target, prediction, weight, prediction)).all()


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", EVERY)
def test_z_step_in_single_precision_is_as_good(name: str, weight: float) -> None:
    activation = EVERY[name]
    y, prediction = pairs(2, 3.0)
    single, guess = activation.apply(y.astype(np.float32)), prediction.astype(np.float32)
    z = activation.z_step(single, guess, weight)
    assert single.dtype == z.dtype == np.float32
    target = activation.apply(y)
    reached = cost(activation, target, prediction, weight, z.astype(np.float64))
    exact = cost(activation, target, prediction, weight, activation.z_step(target, prediction, weight))
    # Where two minima cost the same, round-off may choose either.
    tolerance = 1e-2 if name in CURVED else 100 * EPS32 * (1 + exact.max())
    assert (reached <= exact + tolerance).all()
    assert reached.mean() <= exact.mean() * (1 + 1e-4) + EPS32


@pytest.mark.parametrize("name", EVERY)
def test_z_step_of_a_perfect_prediction_is_as_good_as_the_prediction(name: str) -> None:
    y = np.linspace(-4, 4, 81)[:, None].repeat(4, axis=1)
    activation = EVERY[name]
    target = activation.apply(y)
    z = activation.z_step(target, y, 0.1)
    # The cost squares the inaccuracy of z, so a cost of zero fixes z only to the root of the precision.
    np.testing.assert_allclose(z, y, atol=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_z_step_leaves_its_arguments_alone_and_takes_blocks_of_any_size(name: str) -> None:
    activation = EVERY[name]
    y, prediction = (values.astype(np.float32) for values in pairs(3, 2.0, n=5000))
    target = activation.apply(y)
    before = target.copy(), prediction.copy()
    np.testing.assert_array_equal(activation.apply(y[:7]), target[:7])
    z = activation.z_step(target, prediction, 0.1)
    np.testing.assert_array_equal(target, before[0])
    np.testing.assert_array_equal(prediction, before[1])
    parts = [activation.z_step(target[i : i + 7], prediction[i : i + 7], 0.1) for i in range(0, 70, 7)]
    np.testing.assert_allclose(np.concatenate(parts), z[:70], rtol=1e-5, atol=1e-5)
    assert activation.z_step(target[:0], prediction[:0], 0.1).shape == (0, 4)


@pytest.mark.parametrize("name", CURVED)
def test_slopes_are_those_of_the_values(name: str) -> None:
    activation = CURVED[name]
    z = np.linspace(-9.03, 9.02, 2000)
    step = 1e-4
    kinks = np.array([kink for kink in activation.kinks if abs(kink) < 9])
    away = (np.abs(z[:, None] - kinks) > 2 * step).all(axis=1) if len(kinks) else np.full(len(z), True)
    numerical = (activation.apply(z + step) - activation.apply(z - step)) / (2 * step)
    np.testing.assert_allclose(activation.at(z)[1][away], numerical[away], atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_large_responses_do_not_overflow(name: str) -> None:
    y = np.array([[-1e15, -1e4, 1e4, 1e15]], np.float32)
    activation = EVERY[name]
    assert np.isfinite(activation.apply(y)).all()
    assert np.isfinite(activation.z_step(activation.apply(y), y[:, ::-1].copy(), 0.1)).all()


@pytest.mark.parametrize("name", [name for name in STRAIGHT if name != "Relu"])
def test_straight_pieces_meet_at_their_ends(name: str) -> None:
    activation = STRAIGHT[name]
    assert isinstance(activation, PiecewiseLinear)
    for piece, following in itertools.pairwise(activation.pieces):
        assert piece.upper == following.lower
        left, right = (np.array(p.slope) * piece.upper + p.offset for p in (piece, following))
        np.testing.assert_allclose(left, np.broadcast_to(right, left.shape), atol=1e-12)


def test_a_prelu_treats_every_channel_as_a_leaky_relu_of_its_slope() -> None:
    slopes = (0.25, -0.3, 0.0, 2.0)
    y, prediction = pairs(4, 2.0)
    together = prelu(slopes)
    target = together.apply(y)
    for channel, slope in enumerate(slopes):
        column = slice(channel, channel + 1)
        single = leaky_relu(slope)
        np.testing.assert_array_equal(single.apply(y[:, column]), target[:, column])
        z = single.z_step(target[:, column], prediction[:, column], 0.1)
        np.testing.assert_allclose(z, together.z_step(target, prediction, 0.1)[:, column])


def test_the_relu_is_its_own_piecewise_form() -> None:
    assert clip(0, math.inf) is RELU
    y, prediction = pairs(5, 2.0)
    leaky = leaky_relu(0.0)
    np.testing.assert_array_equal(RELU.apply(y), leaky.apply(y))
    np.testing.assert_allclose(
        RELU.z_step(RELU.apply(y), prediction, 0.1), leaky.z_step(leaky.apply(y), prediction, 0.1), atol=1e-12
    )


def test_the_absence_of_an_activation_is_the_identity() -> None:
    y, _ = pairs(6, 1.0)
    assert apply(None, y) is y


@pytest.mark.parametrize("name", [name for name in EVERY if name != "Clip to a point"])
def test_the_nonlinear_solution_beats_the_linear_one_on_unseen_rows(name: str) -> None:
    rng = np.random.default_rng(7)
    mixing = rng.standard_normal((12, 12)) * 0.85 ** np.arange(12)
    Y = (rng.standard_normal((9000, 12)) @ mixing.T + rng.standard_normal(12)).astype(np.float32)
    activation = prelu((0.25, -0.3, 0.0, 2.0) * 3) if name == "PRelu" else EVERY[name]
    rows, unseen = Rows(Y[:6000], Y[:6000], judging(6000)), Y[6000:]

    def error(*, nonlinear: bool) -> float:
        solution = fit(rows, np.eye(12), 4, activation, nonlinear=nonlinear).map
        return float(np.square(activation.apply(solution(unseen)) - activation.apply(unseen)).sum())

    assert error(nonlinear=True) < error(nonlinear=False)
