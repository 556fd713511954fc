"""Synthetic writing for networks with one channel: smooth strokes of a pen.

Such a network sees writing, print or scans at least as often as gray photos, and these lack the statistics of natural
images: they have a plain ground, a few strokes of one width, and soft edges. Each image holds as many characters as fit
its shape, and each character consists of a few curves through random points.
"""

import numpy as np
import scipy.interpolate
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

_SCALE = 4
"""An image is drawn this many times larger and averaged down, which gives it the soft edges of a scan."""
_POINTS = 24
"""The number of points that approximate a curve by straight lines."""


def strokes_image(seed: int, index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Make one image, light on dark or, as often, dark on light.

    The parameters are those of :func:`~onnx_lowrank.data.synthetic.scenes.synthetic_image`.

    Returns
    -------
    NDArray[np.uint8]
        Gray pixels, shape [height, width].
    """
    rng = np.random.default_rng([seed, index])
    canvas = Image.new("L", (width * _SCALE, height * _SCALE))
    brush = ImageDraw.Draw(canvas)
    # The characters are about as large as the shorter side, or smaller and in several lines.
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
