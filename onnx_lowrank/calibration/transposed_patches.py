"""What a transposed convolution reads for one pixel of its output.

At the output position u the tap j sees the input pixel (u + t − j·e) / s, where this is a whole number inside the input
(see ``graph/find/transposition.py``). All other taps see zero. So a patch has one tap in s along every axis that is not
zero, a different one for each of the s phases of the output, and one kernel [d, c, *sizes] serves all phases.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.positions import coordinates, gather_pixels
from onnx_lowrank.graph.find.site import ConvSite

NOWHERE = -1
"""The coordinate of a pixel that does not exist."""


def transposed_patches(site: ConvSite, x: NDArray[Any], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Gather the patches of a transposed convolution at some output positions.

    Parameters
    ----------
    site
        The convolution.
    x
        Its input, shape [N, c, *size].
    positions
        Output positions, shape [count], the same for every image.

    Returns
    -------
    NDArray[np.float32]
        Patches, shape [N * count, c, *kernel sizes].

    Raises
    ------
    ValueError
        If a position lies outside the output map.
    """
    size = x.shape[2:]
    pads, taps = site.padding(size), []
    for axis, own in enumerate(coordinates(positions, site.output_size(size))):
        offsets = np.arange(site.kernel.shape[2 + axis]) * site.dilations[axis]
        pixel, phase = np.divmod(own[:, None] + pads[axis] - offsets, site.strides[axis])
        taps.append(np.where(phase == 0, pixel, NOWHERE))
    return gather_pixels(x, taps)
