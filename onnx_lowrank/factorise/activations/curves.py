"""The curved activations: r and its slope r', elementwise, without overflow and in the type of their argument z.

SiLU is z·σ(z) (Elfwing, Uchibe, Doya 2018), GELU z·Φ(z) (Hendrycks, Gimpel 2016) with its tanh approximation, Mish
z·tanh(ln(1 + eᶻ)) (Misra 2019), HardSwish z·max(0, min(1, z/6 + ½)) (Howard et al. 2019), ELU z above 0 and α(eᶻ − 1)
below (Clevert, Unterthiner, Hochreiter 2016).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.smooth import Smooth

Array = NDArray[Any]
Point = tuple[Array, Array]
"""(r(z), r'(z))."""


def _sigma(z: Array) -> Array:
    """Return σ(z) = 1 / (1 + e⁻ᶻ)."""
    return np.asarray(0.5 * np.tanh(0.5 * z) + 0.5)


def _sigmoid(z: Array) -> Point:
    """Return σ(z) and its slope."""
    s = _sigma(z)
    return s, s * (1 - s)


def _tanh(z: Array) -> Point:
    """Return tanh(z) and its slope."""
    t = np.tanh(z)
    return t, 1 - t * t


def _silu(z: Array) -> Point:
    """Return z·σ(z) and its slope."""
    s = _sigma(z)
    r = z * s
    return r, s + r * (1 - s)


def _gelu(z: Array) -> Point:
    """Return z·Φ(z) and its slope.

    Φ follows Abramowitz and Stegun, 7.1.26, to within 1e-7: it needs the same exponential as the density, and SciPy's
    erf takes several times longer.
    """
    size = np.abs(z)
    exponential = np.exp(-0.5 * np.square(np.minimum(size, 40)))
    t = 1 / (1 + 0.3275911 * math.sqrt(0.5) * size)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail *= 0.5 * exponential  # 1 − Φ(|z|)
    phi = 0.5 + np.copysign(0.5 - tail, z)
    return z * phi, phi + z * (math.sqrt(0.5 / math.pi) * exponential)


def _gelu_tanh(z: Array) -> Point:
    """Return the tanh approximation of z·Φ(z) and its slope."""
    # Beyond these bounds the tanh is ±1, and the square might overflow.
    near = np.clip(z, -20, 20)
    square = near * near
    c = math.sqrt(2 / math.pi)
    t = np.tanh(near * (c + 0.044715 * c * square))
    half = 0.5 * t + 0.5
    return z * half, half + near * (0.5 - 0.5 * t * t) * (c + 3 * 0.044715 * c * square)


def _mish(z: Array) -> Point:
    """Return z·tanh(ln(1 + eᶻ)) and its slope."""
    e = np.exp(np.minimum(z, 20))
    n = e * (e + 2)
    t = n / (n + 2)  # tanh(ln(1 + eᶻ))
    return z * t, t + z * (1 - t * t) * (e / (e + 1))


def _hard_swish(z: Array) -> Point:
    """Return z·max(0, min(1, z/6 + ½)) and its slope."""
    gate = np.clip(z * (1 / 6) + 0.5, 0, 1)
    bend = z * (1 / 6)
    bend *= np.abs(z) < 3
    return z * gate, gate + bend


def _elu(z: Array, alpha: float) -> Point:
    """Return the ELU and its slope."""
    slope = alpha * np.exp(np.minimum(z, 0))
    r = np.maximum(z, 0) + (slope - alpha)
    return r, np.where(z > 0, np.ones((), slope.dtype), slope)


SIGMOID = Smooth("Sigmoid", _sigmoid)
TANH = Smooth("Tanh", _tanh)
SILU = Smooth("SiLU", _silu)
GELU = Smooth("Gelu", _gelu)
GELU_TANH = Smooth("Gelu (tanh)", _gelu_tanh)
MISH = Smooth("Mish", _mish)
HARD_SWISH = Smooth("HardSwish", _hard_swish, kinks=(-3.0, 3.0))


def elu(alpha: float) -> Smooth:
    """Return the ELU, which is z for z ≥ 0 and α(eᶻ − 1) below."""
    return Smooth("Elu", _elu, (alpha,), kinks=(0.0,))
