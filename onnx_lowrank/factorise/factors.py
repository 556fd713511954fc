"""A convolution written as a chain of smaller ones.

Every form of the paper is a chain of links. Each link is a convolution without non-linearity; the original's
vertical geometry (stride, padding, dilation along the height) belongs to one link and its horizontal geometry to one:

    channel (§2.2)   k×k c→d'  (rows, columns)   1×1 d'→d
    spatial          k×1 c→d'  (rows)            1×k d'→d (columns)
    3d (§2.5)        k×1 c→d'' (rows)            1×k d''→d' (columns)   1×1 d'→d
    cp               1×1 c→r                     depthwise k×k (both)   1×1 r→d

With another number of spatial axes it is the same: each axis belongs to one link. The bias b of the factorisation
(§2.2, after eq. 3) sits on the last link alone.

A grouped convolution is several small ones side by side, so its chain consists of grouped convolutions, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Link:
    """One convolution of the chain.

    Attributes
    ----------
    kernel
        [filters, channels of a group, *sizes]; of a depthwise link, [filters, 1, *sizes].
    carries
        For every spatial axis whether this link carries the original's stride, padding and dilation along it;
        where it does not, it has stride 1, no padding, and its kernel has size 1 in that direction.
    depthwise
        Whether every channel is a group of its own.
    """

    kernel: Array
    carries: tuple[bool, ...]
    depthwise: bool = False


@dataclass(frozen=True)
class Factorization:
    """A chain of links that replaces one convolution c→d.

    Attributes
    ----------
    form
        "channel", "spatial", "3d" or "cp".
    links
        From the input to the output.
    bias
        [d], on the last link.
    group
        Into how many groups every link that is not depthwise divides its channels and filters.
    """

    form: str
    links: tuple[Link, ...]
    bias: Array
    group: int = 1

    @property
    def ranks(self) -> tuple[int, ...]:
        """The numbers of channels between the links, of one group; those around a depthwise link are one rank."""
        return tuple(link.kernel.shape[0] // self.group for link in self.links[:-1] if not link.depthwise)

    def dense(self) -> Array:
        """The one kernel [d, c of a group, *sizes] to which the chain composes, in float64."""
        first, *others = (self._by_group(link) for link in self.links)
        for other in others:
            # Each axis is carried by one link only: of two sizes along it, one is 1.
            first = np.einsum("gom...,gmc...->goc...", other, first)
        return first.reshape(-1, *first.shape[2:])

    def _by_group(self, link: Link) -> Array:
        kernel = link.kernel.astype(np.float64).reshape(self.group, -1, *link.kernel.shape[1:])
        if not link.depthwise:
            return kernel
        rank = kernel.shape[1]
        full = np.zeros((self.group, rank, rank, *kernel.shape[3:]))
        full[:, range(rank), range(rank)] = kernel[:, :, 0]
        return full

    def parameters(self) -> int:
        """The number of stored weights, biases included."""
        return sum(link.kernel.size for link in self.links) + self.bias.size


def side_by_side(parts: Sequence[Factorization]) -> Factorization:
    """The chain of a grouped convolution, made of those of its groups, which have the same form and ranks."""
    links = tuple(
        Link(np.concatenate([link.kernel for link in of_groups]), of_groups[0].carries, of_groups[0].depthwise)
        for of_groups in zip(*(part.links for part in parts), strict=True)
    )
    return Factorization(parts[0].form, links, np.concatenate([part.bias for part in parts]), len(parts))
