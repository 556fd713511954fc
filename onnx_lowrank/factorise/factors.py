"""A convolution written as a chain of smaller ones.

Every form is a chain of links, which are convolutions without a non-linearity between them. Each spatial axis of the
original kernel belongs to one link: this link has the original's size, stride, padding and dilation along the axis, and
all others have size 1 and stride 1 there. The spatial form of a k×l kernel, for example, gives the rows to a k×1 link
and the columns to a 1×l link. The bias b of the factorisation (§2.2, after eq. 3) sits on the last link alone.

A grouped convolution is several small convolutions side by side, so its chain consists of grouped convolutions as well.
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
        [filters, channels of a group, *sizes]; [filters, 1, *sizes] for a depthwise link.
    carries
        For every spatial axis whether this link carries the original's stride, padding and dilation along it. Where it
        does not, it has stride 1, no padding, and a kernel of size 1.
    depthwise
        Whether every channel is a group of its own.
    """

    kernel: Array
    carries: tuple[bool, ...]
    depthwise: bool = False


@dataclass(frozen=True)
class LinkShape:
    """A link whose values are not known yet, for one group of the convolution.

    Attributes
    ----------
    filters, channels
        The number of channels that the link makes, and the number that each of its filters reads.
    carries, depthwise
        As for ``Link``.
    """

    filters: int
    channels: int
    carries: tuple[bool, ...]
    depthwise: bool = False

    def kernel_shape(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the link's kernel, where the original kernel extends over ``sizes``."""
        own = (size if carried else 1 for size, carried in zip(sizes, self.carries, strict=True))
        return self.filters, self.channels, *own


@dataclass(frozen=True)
class Factorization:
    """A chain of links that replaces one convolution c→d.

    Attributes
    ----------
    links
        The convolutions from the input to the output.
    bias
        [d], the bias of the last link.
    group
        The number of groups into which every link that is not depthwise divides its channels and filters.
    """

    links: tuple[Link, ...]
    bias: Array
    group: int = 1


def compose(shapes: Sequence[LinkShape], sizes: Sequence[int], values: Sequence[Array], bias: Array) -> Factorization:
    """Make a chain of one group from the values of its kernels.

    Parameters
    ----------
    shapes
        The links from the input to the output.
    sizes
        The sizes of the original kernel along the spatial axes.
    values
        An array for every link whose entries stand in the order of its kernel, whatever its shape.
    bias
        [d].
    """
    links = (
        Link(own.reshape(shape.kernel_shape(sizes)), shape.carries, shape.depthwise)
        for shape, own in zip(shapes, values, strict=True)
    )
    return Factorization(tuple(links), bias)


def side_by_side(parts: Sequence[Factorization]) -> Factorization:
    """Return the chain of a grouped convolution, made of the chains of its groups, whose links have equal shapes."""
    links = tuple(
        Link(np.concatenate([link.kernel for link in links]), links[0].carries, links[0].depthwise)
        for links in zip(*(part.links for part in parts), strict=True)
    )
    return Factorization(links, np.concatenate([part.bias for part in parts]), len(parts))
