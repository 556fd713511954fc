"""Where a convolution's responses are sampled, and the input patches under those places.

A conv with kernel (kh, kw), strides (sh, sw), dilations (eh, ew) and pads (t, l, b, r) computes its response at the
output position (u, v) from the patch

    patch[c, i, j] = x[c, u·sh − t + i·eh, v·sw − l + j·ew],   zero outside x.

Sampled rows are n×c×kh×kw (patches) and n×d (responses), image-major and then by position. The positions depend only
on the seed, the site and the batch, so the original and the approximated network are sampled at the same places.
"""

import zlib

import numpy as np
from numpy.typing import NDArray


def positions(seed: int, name: str, batch: int, height: int, width: int, count: int) -> NDArray[np.int64]:
    """Choose output positions of one site for one batch, without replacement.

    Their order is random too: a prefix of them is spread over the whole map, so rows may be split anywhere.

    Parameters
    ----------
    seed
        The run's seed.
    name
        The site's name.
    batch
        The batch's number.
    height, width
        Size of the site's output map.
    count
        How many positions; clipped to ``height * width``.

    Returns
    -------
    NDArray[np.int64]
        Rows and columns, shape [count, 2].
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode()), batch])
    flat = generator.choice(height * width, size=min(count, height * width), replace=False)
    return np.stack(np.divmod(flat.astype(np.int64), width), axis=1)


def gather_patches(
    x: NDArray[np.floating],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> NDArray[np.float32]:
    """Gather the input patches that a conv sees at some output positions.

    Parameters
    ----------
    x
        The conv's input, shape [N, c, H, W].
    rows, columns
        Output positions, shape [count] each, the same for every image.
    kernel, strides, dilations
        The conv's attributes as (vertical, horizontal).
    pads
        Zero padding as (top, left, bottom, right).

    Returns
    -------
    NDArray[np.float32]
        Patches, shape [N * count, c, kh, kw], C-contiguous, so that a reshape to [N * count, c*kh*kw] is free.

    Raises
    ------
    ValueError
        If a position lies outside the conv's output map.
    """
    images, channels, height, width = x.shape
    y = _taps(rows, height, kernel[0], strides[0], dilations[0], (pads[0], pads[2]))
    z = _taps(columns, width, kernel[1], strides[1], dilations[1], (pads[1], pads[3]))
    inside = (((y >= 0) & (y < height))[:, :, None] & ((z >= 0) & (z < width))[:, None, :]).reshape(len(rows), -1)
    pixel = (np.clip(y, 0, height - 1) * width)[:, :, None] + np.clip(z, 0, width - 1)[:, None, :]
    # One table of addresses in the final order serves all images: each image costs one pass that writes its output
    # in sequence, with neither a padded copy of x nor a transposition. Taps outside read a neighbour, zeroed below.
    address = pixel.reshape(len(rows), 1, -1) + (np.arange(channels) * (height * width))[:, None]
    patches = np.empty((images, *address.shape), np.float32)
    for image, patch in zip(x, patches, strict=True):
        if image.dtype == np.float32:
            np.take(image.reshape(-1), address, out=patch, mode="clip")  # "raise" would buffer the output
        else:
            patch[...] = np.take(image.reshape(-1), address, mode="clip")
    position, tap = np.nonzero(~inside)
    if len(position):
        patches[:, position, :, tap] = 0
    return patches.reshape(images * len(rows), channels, *kernel)


def gather_points(y: NDArray[np.floating], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """Gather a site's responses at some output positions.

    Parameters
    ----------
    y
        Responses, shape [N, d, height, width].
    rows, columns
        Output positions, shape [count] each.

    Returns
    -------
    NDArray[np.float32]
        Shape [N * count, d], C-contiguous, in the row order of :func:`gather_patches`.
    """
    points = y[:, :, rows, columns].transpose(0, 2, 1)
    return np.ascontiguousarray(points, dtype=np.float32).reshape(-1, y.shape[1])


def _taps(
    places: NDArray[np.int64], size: int, kernel: int, stride: int, dilation: int, pad: tuple[int, int]
) -> NDArray[np.int64]:
    """Input coordinates [count, kernel] along one axis; negative or ≥ size in the padding."""
    outputs = (size + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1
    if len(places) and (places.min() < 0 or places.max() >= outputs):
        raise ValueError(f"positions {places.min()}..{places.max()} lie outside the {outputs} outputs along this axis")
    taps: NDArray[np.int64] = places[:, None] * stride - pad[0] + np.arange(kernel) * dilation
    return taps
