"""The output positions at which a convolution is sampled, its responses there, and the input patches under them.

A convolution with kernel (kh, kw), strides (sh, sw), dilations (eh, ew) and pads (t, l, b, r) computes its response at
the output position (u, v) from the patch

    patch[c, i, j] = x[c, u·sh − t + i·eh, v·sw − l + j·ew],   zero outside x,

and likewise with any other number of spatial axes. A position is an index into the flattened output map. Sampled rows
have the shapes n×c×kh×kw (patches) and n×d (responses); they are ordered by image and, within an image, by position.
The positions depend only on the seed, the site and the batch, so the original and the approximated network are sampled
at the same ones.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def draw_positions(seed: int, name: str, batch: int, size: Sequence[int], count: int) -> NDArray[np.int64]:
    """Draw output positions of one site for one batch, without replacement.

    Their order is random as well, so any prefix of them is spread over the whole map, and rows may be split anywhere.

    Parameters
    ----------
    seed
        The run's seed.
    name
        The site's name.
    batch
        The batch's number.
    size
        The size of the site's output map along every spatial axis.
    count
        The number of positions; all are drawn if the map has fewer.

    Returns
    -------
    NDArray[np.int64]
        Indices into the flattened map, shape [min(count, size of the map)].
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), batch])
    available = math.prod(size)
    return rng.choice(available, size=min(count, available), replace=False).astype(np.int64)


def gather_patches(
    x: NDArray[np.floating],
    positions: NDArray[np.int64],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> NDArray[np.float32]:
    """Gather the input patches of a convolution at some output positions.

    Parameters
    ----------
    x
        The convolution's input, shape [N, c, *size].
    positions
        Output positions, shape [count], the same for every image.
    kernel, strides, dilations
        The convolution's attributes, one number for each spatial axis.
    pads
        The zero padding in the order of ONNX: in front along every axis, then behind along every axis.

    Returns
    -------
    NDArray[np.float32]
        Patches, shape [N * count, c, *kernel]. They are C-contiguous, so a reshape to [N * count, -1] costs nothing.

    Raises
    ------
    ValueError
        If a position lies outside the output map.
    """
    sizes = x.shape[2:]
    axes = len(sizes)
    outputs = [
        (sizes[a] + pads[a] + pads[axes + a] - dilations[a] * (kernel[a] - 1) - 1) // strides[a] + 1
        for a in range(axes)
    ]
    return gather_pixels(
        x,
        [
            own[:, None] * strides[a] - pads[a] + np.arange(kernel[a]) * dilations[a]
            for a, own in enumerate(coordinates(positions, outputs))
        ],
    )


def coordinates(positions: NDArray[np.int64], size: Sequence[int]) -> tuple[NDArray[np.int64], ...]:
    """Return the coordinates [count] of positions in an output map along every spatial axis.

    Raises
    ------
    ValueError
        If a position lies outside the map.
    """
    available = math.prod(size)
    if len(positions) and (positions.min() < 0 or positions.max() >= available):
        raise ValueError(f"positions {positions.min()}..{positions.max()} lie outside the {available} outputs")
    return np.unravel_index(positions, size) if len(size) else ()


def gather_pixels(x: NDArray[np.floating], taps: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Gather the pixels under the taps of a kernel at some output positions.

    Parameters
    ----------
    x
        Input, shape [N, c, *size].
    taps
        The input coordinates of the taps along every spatial axis, shape [count, kernel size] each; a tap outside x
        sees zero.

    Returns
    -------
    NDArray[np.float32]
        Patches, as :func:`gather_patches` returns them.
    """
    images, channels, *sizes = x.shape
    count = len(taps[0]) if taps else 1
    pixel, inside = np.zeros((count, 1), np.int64), np.ones((count, 1), bool)
    for own, size in zip(taps, sizes, strict=True):
        within = (own >= 0) & (own < size)
        inside = (inside[:, :, None] & within[:, None, :]).reshape(count, -1)
        pixel = (pixel[:, :, None] * size + np.clip(own, 0, size - 1)[:, None, :]).reshape(count, -1)
    # One table of addresses in the final order serves all images: each image costs one pass that writes its output
    # in sequence, with neither a padded copy of x nor a transposition. A tap outside x reads a neighbour, which is set
    # to zero at the end.
    address = pixel[:, None, :] + (np.arange(channels) * math.prod(sizes))[:, None]
    patches = np.empty((images, *address.shape), np.float32)
    for image, patch in zip(x, patches, strict=True):
        if image.dtype == np.float32:
            np.take(image.reshape(-1), address, out=patch, mode="clip")  # mode "raise" buffers the output
        else:
            patch[...] = np.take(image.reshape(-1), address, mode="clip")
    position, tap = np.nonzero(~inside)
    if len(position):
        patches[:, position, :, tap] = 0
    return patches.reshape(images * count, channels, *(own.shape[1] for own in taps))


def gather_points(y: NDArray[np.floating], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Gather the responses of a site at some output positions.

    Parameters
    ----------
    y
        Responses, shape [N, d, *size].
    positions
        Output positions, shape [count], the same for every image.

    Returns
    -------
    NDArray[np.float32]
        Responses in the row order of :func:`gather_patches`, shape [N * count, d], C-contiguous.
    """
    points = y.reshape(*y.shape[:2], -1)[:, :, positions].transpose(0, 2, 1)
    return np.ascontiguousarray(points, dtype=np.float32).reshape(-1, y.shape[1])
