"""Images from nothing: samples with the statistics of natural images, for models whose data are not at hand.

Two models of natural scenes are mixed, both scale-invariant as photos are (power ∝ 1/f² over spatial frequency):

* dead leaves: opaque shapes with radii of density r⁻³ that cover one another, which gives edges, occlusion and large
  flat areas (Ruderman, "Origins of scaling in natural images", Vision Research 37, 1997; Lee, Mumford and Huang,
  "Occlusion models for natural images", IJCV 41, 2001); each leaf has a colour, a texture and a shade of its own;
* noise with power 1/f^α, α around 2 (Field, JOSA A 4, 1987), its local contrast modulated.

Fields are made in opponent axes, luminance far stronger than the two colour axes, which are uncorrelated in natural
images (Ruderman, Cronin and Chiao, JOSA A 15, 1998), and in log intensity, so that pixels have the skewed, clipped
histogram of photos. A slight blur and sensor noise stand for the camera.
"""

import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

_OPPONENT = np.array(
    [[1, 1, 1], np.array([1, 1, -2]) / math.sqrt(2), np.array([1, -1, 0]) * math.sqrt(1.5)], np.float32
)
"""Rows: luminance, yellow-blue, red-green; orthogonal, of equal length; shape [opponent axis, RGB]."""
_STRENGTH = np.array([1.0, 0.25, 0.12], np.float32)
"""Standard deviations along those axes relative to luminance."""
_LEAVES = 2500
"""Enough for radii over two decades of scale to cover the image three times."""
_PLAIN_NOISE = 0.25
"""The share of images without leaves."""


def synthetic_image(seed: int, index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Make one image.

    Parameters
    ----------
    seed, index
        The image depends only on these two and on its size.
    height, width
        Size in pixels.

    Returns
    -------
    NDArray[np.uint8]
        RGB pixels, shape [height, width, 3].
    """
    rng = np.random.default_rng([seed, index])
    noise = power_law_noise(rng, 4, height, width, exponent=rng.uniform(1.8, 2.4))
    field = noise[:3] * np.exp(0.4 * noise[3])
    if rng.random() >= _PLAIN_NOISE:
        field = 0.25 * field + dead_leaves(rng, height, width, texture=noise[:3])
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
    """Gaussian noise of power 1/f^exponent, mean 0 and variance 1, shape [fields, height, width]."""
    across = np.fft.rfftfreq(width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], across)
    frequency[0, 0] = np.inf  # no mean
    amplitude = (frequency ** (-exponent / 2)).astype(np.float32)
    shape = (fields, height, len(across))
    white = rng.standard_normal(shape, np.float32) + 1j * rng.standard_normal(shape, np.float32)
    noise = scipy.fft.irfft2(white * amplitude, s=(height, width))
    deviation = noise.std(axis=(1, 2), keepdims=True)
    return np.asarray(noise / (deviation + 1e-12), np.float32)


def dead_leaves(rng: np.random.Generator, height: int, width: int, texture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Opaque shapes that cover one another, textured and shaded, shape [3, height, width] in opponent axes.

    Parameters
    ----------
    rng
        Where the randomness comes from.
    height, width
        Size in pixels.
    texture
        Noise that the leaves cut their textures from, shape [3, height, width].
    """
    short = min(height, width)
    smallest, largest = max(1.0, short / rng.uniform(25, 100)), max(2.0, short / 2)
    # Inverse of the distribution with density r⁻³ between the two radii.
    share = rng.random(_LEAVES)
    radius = (smallest**-2 - share * (smallest**-2 - largest**-2)) ** -0.5
    x, y = rng.uniform(0, width, _LEAVES), rng.uniform(0, height, _LEAVES)
    number = _draw(rng, height, width, x, y, radius)
    colour = rng.standard_normal((_LEAVES, 3)).astype(np.float32)
    colour[:, 1:] *= np.exp(0.5 * rng.standard_normal((_LEAVES, 1))).astype(np.float32)  # few vivid, many dull
    rows, columns = np.indices((height, width))
    # Every leaf shifts the texture by its own amount, and has it at its own strength.
    shift = rng.integers(0, (height, width), (_LEAVES, 2))
    cut = texture[:, (rows + shift[number, 0]) % height, (columns + shift[number, 1]) % width]
    strength = rng.exponential(0.3, _LEAVES).astype(np.float32)
    slope = (0.3 * rng.standard_normal((_LEAVES, 2)) / radius[:, None]).astype(np.float32)
    shade = slope[number, 0] * (rows - y[number]) + slope[number, 1] * (columns - x[number])
    leaves = colour.T[:, number] + strength[number] * cut
    leaves[0] += np.clip(shade, -1, 1)
    return leaves


def _draw(
    rng: np.random.Generator,
    height: int,
    width: int,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: NDArray[np.float64],
) -> NDArray[np.int32]:
    """Paint discs and polygons over one another; each pixel tells whose it is, shape [height, width]."""
    canvas = Image.new("I", (width, height))
    brush = ImageDraw.Draw(canvas)
    corners = rng.integers(0, 8, len(x))  # below 3: a disc
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
