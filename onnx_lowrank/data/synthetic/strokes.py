"""Writing from nothing: smooth strokes of a pen, for networks with one channel.

Such a network looks at writing, print or scans at least as often as at gray photos, and those have none of the
statistics of natural images: a plain ground, a few strokes of one width, soft edges. Each image holds as many
characters as fit its shape, each of a few curves through random points.
"""

import numpy as np
import scipy.interpolate
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

_SCALE = 4
"""Drawn so many times larger and then averaged down, which gives the soft edges of a scanner."""
_POINTS = 24
"""Straight pieces that stand for a curve."""


def strokes_image(seed: int, index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Make one image, light on dark or, as often, dark on light.

    Parameters
    ----------
    seed, index
        The image depends only on these two and on its size.
    height, width
        Size in pixels.

    Returns
    -------
    NDArray[np.uint8]
        Gray pixels, shape [height, width].
    """
    rng = np.random.default_rng([seed, index])
    canvas = Image.new("L", (width * _SCALE, height * _SCALE))
    brush = ImageDraw.Draw(canvas)
    # Characters about as large as the shorter side, or lines of smaller ones.
    size = _SCALE * min(height, width) / (1 if min(height, width) < 64 else rng.choice([1, 2, 4]))
    for top in np.arange(0, height * _SCALE - size / 2, size):
        for left in np.arange(0, width * _SCALE - size / 2, size):
            _character(rng, brush, np.array([left, top]), float(size))
    small = canvas.resize((width, height), Image.Resampling.BOX)
    ink = np.asarray(small.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.5))), np.float32) * rng.uniform(0.8, 1)
    return (ink if rng.random() < 0.5 else 255 - ink).astype(np.uint8)


def _character(rng: np.random.Generator, brush: ImageDraw.ImageDraw, corner: NDArray[np.float64], size: float) -> None:
    """Draw a few curves in the middle of a square."""
    pen = max(1, round(size * rng.uniform(0.05, 0.12)))
    spread = rng.uniform(0.15, 0.3, 2)
    for _ in range(rng.integers(1, 4)):
        knots = corner + size * np.clip(rng.normal(0.5, spread, (rng.integers(3, 6), 2)), 0.12, 0.88)
        curve = scipy.interpolate.make_interp_spline(np.arange(len(knots)), knots, k=2)
        points = curve(np.linspace(0, len(knots) - 1, _POINTS))
        brush.line(points.ravel().tolist(), fill=255, width=pen, joint="curve")
