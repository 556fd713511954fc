"""Synthetic scenes: images with the statistics of natural images, for models whose data are not at hand.

The images mix two models of natural scenes. Both are scale-invariant as photos are (power ∝ 1/f² over the spatial
frequency f):

* Dead leaves are opaque shapes with radii of density r⁻³ that cover one another, which gives edges, occlusion and large
  flat areas (Ruderman, "Origins of scaling in natural images", Vision Research 37, 1997; Lee, Mumford and Huang,
  "Occlusion models for natural images", IJCV 41, 2001). Each leaf has a colour, a texture and a shade of its own.
* Noise has the power 1/f^α with α around 2 (Field, JOSA A 4, 1987) and a modulated local contrast.

The fields are made in opponent axes, which are uncorrelated in natural images (Ruderman, Cronin and Chiao, JOSA A 15,
1998), with a luminance far stronger than the two colours. They stand for log intensities, so that the pixels have the
skewed, clipped histogram of photos. A slight blur and sensor noise imitate the camera.
"""

import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

_OPPONENT = np.array(
    [[1, 1, 1], np.array([1, 1, -2]) / math.sqrt(2), np.array([1, -1, 0]) * math.sqrt(1.5)], np.float32
)
"""The luminance, yellow-blue and red-green axes as rows, orthogonal and of equal length, shape [opponent axis, RGB]."""
_STRENGTH = np.array([1.0, 0.25, 0.12], np.float32)
"""The standard deviations along the opponent axes, relative to that of the luminance."""
_LEAVES = 2500
"""The number of leaves in an image; with radii over two decades of scale they cover it three times."""
_PLAIN_NOISE = 0.25
"""The share of the images that have no leaves."""


def synthetic_image(seed: int, index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Make one image.

    Parameters
    ----------
    seed, index
        The seed of all images and the number of this one. The image depends only on these and on its size.
    height, width
        The size in pixels.

    Returns
    -------
    NDArray[np.uint8]
        RGB pixels, shape [height, width, 3].
    """
    rng = np.random.default_rng([seed, index])
    noise = power_law_noise(rng, 4, height, width, exponent=rng.uniform(1.8, 2.4))
    field = noise[:3] * np.exp(0.4 * noise[3])
    if rng.random() >= _PLAIN_NOISE:
        field = 0.25 * field + _dead_leaves(rng, height, width, texture=noise[:3])
    field -= field.mean(axis=(1, 2), keepdims=True)
    field *= (_STRENGTH / (field.std(axis=(1, 2)) + 1e-6))[:, None, None]
    contrast = rng.uniform(0.3, 0.6)
    cast = rng.normal((0.05, 0.0, -0.1), 0.06)  # photos are a little warm on average
    logarithm = contrast * np.einsum("ohw,oc->hwc", field, _OPPONENT) + (rng.normal(-0.9, 0.2) + cast)
    pixels = 255 * np.exp(logarithm)
    camera = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    blurred = np.asarray(camera.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6))), np.float32)
    grain = rng.standard_normal(blurred.shape, np.float32) * np.float32(rng.uniform(0, 3))
    return np.clip(blurred + grain + 0.5, 0, 255).astype(np.uint8)


def power_law_noise(
    rng: np.random.Generator, fields: int, height: int, width: int, exponent: float
) -> NDArray[np.float32]:
    """Draw Gaussian noise of power 1/f^exponent with mean 0 and variance 1.

    Returns
    -------
    NDArray[np.float32]
        Independent fields, shape [fields, height, width].
    """
    across = np.fft.rfftfreq(width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], across)
    frequency[0, 0] = np.inf  # removes the mean
    amplitude = (frequency ** (-exponent / 2)).astype(np.float32)
    shape = (fields, height, len(across))
    white = rng.standard_normal(shape, np.float32) + 1j * rng.standard_normal(shape, np.float32)
    noise = scipy.fft.irfft2(white * amplitude, s=(height, width))
    deviation = noise.std(axis=(1, 2), keepdims=True)
    return np.asarray(noise / (deviation + 1e-12), np.float32)


def _dead_leaves(
    rng: np.random.Generator, height: int, width: int, texture: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Draw textured and shaded shapes that cover one another.

    Parameters
    ----------
    rng
        The source of all randomness.
    height, width
        The size in pixels.
    texture
        Noise from which the leaves take their textures, shape [3, height, width].

    Returns
    -------
    NDArray[np.float32]
        The opponent axes, shape [3, height, width].
    """
    short = min(height, width)
    smallest, largest = max(1.0, short / rng.uniform(25, 100)), max(2.0, short / 2)
    # The radii follow from the inverse of the distribution function of the density r⁻³ between the two limits.
    share = rng.random(_LEAVES)
    radius = (smallest**-2 - share * (smallest**-2 - largest**-2)) ** -0.5
    x, y = rng.uniform(0, width, _LEAVES), rng.uniform(0, height, _LEAVES)
    owner = _paint(rng, height, width, x, y, radius)
    colour = rng.standard_normal((_LEAVES, 3)).astype(np.float32)
    colour[:, 1:] *= np.exp(0.5 * rng.standard_normal((_LEAVES, 1))).astype(np.float32)  # few vivid, many dull
    rows, columns = np.indices((height, width))
    # Each leaf shifts the texture by an amount of its own and carries it at a strength of its own.
    shift = rng.integers(0, (height, width), (_LEAVES, 2))
    cut = texture[:, (rows + shift[owner, 0]) % height, (columns + shift[owner, 1]) % width]
    strength = rng.exponential(0.3, _LEAVES).astype(np.float32)
    slope = (0.3 * rng.standard_normal((_LEAVES, 2)) / radius[:, None]).astype(np.float32)
    shade = slope[owner, 0] * (rows - y[owner]) + slope[owner, 1] * (columns - x[owner])
    leaves = colour.T[:, owner] + strength[owner] * cut
    leaves[0] += np.clip(shade, -1, 1)
    return leaves


def _paint(
    rng: np.random.Generator,
    height: int,
    width: int,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: NDArray[np.float64],
) -> NDArray[np.int32]:
    """Paint discs and polygons over one another and return the number of the leaf at each pixel, [height, width]."""
    canvas = Image.new("I", (width, height))
    brush = ImageDraw.Draw(canvas)
    corners = rng.integers(0, 8, len(x))  # a disc if below 3
    turn = rng.uniform(0, 2 * math.pi, len(x))
    for leaf in range(len(x)):
        if corners[leaf] < 3:
            box = (x[leaf] - radius[leaf], y[leaf] - radius[leaf], x[leaf] + radius[leaf], y[leaf] + radius[leaf])
            brush.ellipse(box, fill=leaf)
        else:
            angle = turn[leaf] + np.linspace(0, 2 * math.pi, corners[leaf], endpoint=False)
            points = np.stack([x[leaf] + radius[leaf] * np.cos(angle), y[leaf] + radius[leaf] * np.sin(angle)], axis=1)
            brush.polygon(points.ravel().tolist(), fill=leaf)
    return np.asarray(canvas)
