"""A part of the calibration samples with the network approximated so far: activations live here and never leave.

Everything that the stages want to know of activations is a question to a shard, and every answer is small: sampled
rows, not whole activations. There are two kinds of shard: one that holds samples, and several taken together, which
answer as one would that held all their samples. A new question is one method here, and one in each of the two.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from onnx_lowrank.factorise.factors import Factorization
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.sites import ConvSite

Array = NDArray[Any]


@dataclass(frozen=True)
class ProfileQuestion:
    """What is to be sampled of the original network.

    Attributes
    ----------
    sites
        The layers whose responses are sampled.
    dense
        Fully connected layers of which all responses are wanted.
    per_sample
        The number of positions in every sample's output, by site name.
    patches
        The names of the sites whose patches are wanted, too.
    patch_batches
        The number of batches, from the first on, of which patches are taken.
    """

    sites: tuple[ConvSite, ...]
    dense: tuple[DenseLayer, ...]
    per_sample: Mapping[str, int]
    patches: frozenset[str]
    patch_batches: int


@dataclass(frozen=True)
class LayerSample:
    """What one batch shows of one layer of a ``ProfileQuestion``.

    Attributes
    ----------
    batch
        The number of the batch.
    name
        The name of the site or of the fully connected layer.
    rows
        [m, d], the responses before the activation, or the sums where a shortcut joins.
    responses
        [m, d], the responses alone where a shortcut joins; else None.
    patches
        The patches [k, c of a group, *sizes] that every group reads; none where they are not wanted.
    """

    batch: int
    name: str
    rows: Array
    responses: Array | None = None
    patches: Sequence[Array] = ()


@dataclass(frozen=True)
class SiteRows:
    """What the approximated network delivers at one site.

    Attributes
    ----------
    inputs
        What the form of every group reads of its patches, [n, s, q].
    shortcut
        [n, d], the shortcut that joins the response; None where none does.
    """

    inputs: tuple[Array, ...]
    shortcut: Array | None


class Shard(Protocol):
    """Samples, and the network approximated so far on them."""

    @property
    def macs_executed(self) -> int:
        """The multiply-accumulates that answering ``rows`` and ``reads`` has taken."""

    def profile(self, question: ProfileQuestion) -> Iterator[LayerSample]:
        """Sample the network as it is: the batches in their order, of each the layers in that of the question."""

    def rows(self, site: ConvSite, forms: Sequence[Form], per_sample: int, memory: int) -> SiteRows:
        """What a site reads now, as its forms see it.

        Parameters
        ----------
        site
            The convolution; never in front of one that was asked for before.
        forms
            The form of every group.
        per_sample
            The number of positions in every sample's output.
        memory
            Bytes that the shard may hold of activations until the next question.
        """

    def reads(self, layer: DenseLayer, memory: int) -> Array:
        """The rows [n, p], float32, that a fully connected layer reads now; ``memory`` is as for ``rows``."""

    def advance(self, site: ConvSite, factorization: Factorization, macs: int) -> None:
        """Put a factorisation that takes so many MACs of one sample in the place of a site."""

    def reweight(self, layer: DenseLayer, weight: Array | None, bias: Array | None) -> bool:
        """Give a fully connected layer new weights; False, and nothing is changed, where they do not fit its type."""
