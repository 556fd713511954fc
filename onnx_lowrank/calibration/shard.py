"""A shard: a part of the calibration samples together with the network approximated so far.

Activations live in a shard and never leave it. Whatever the stages want to know of activations is a question to a
shard, and every answer is small: sampled rows, not whole activations. There are two kinds of shard: one that holds
samples (``LocalShard``), and several that answer as one shard would that held all their samples (``Shards``). A new
question is one method here and one in each of the two.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.graph.edit.rewrite import Replacement
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.integers import IntegerLayer
from onnx_lowrank.interface import Feeds

Array = NDArray[Any]

MOST_PATCHES = 4_000
"""The statistics of a site's patches are estimated from about this many patches at most; each has several columns."""


@dataclass(frozen=True)
class ProfileQuestion:
    """The question for samples of the original network.

    Attributes
    ----------
    sites
        The layers whose responses are sampled.
    dense
        The fully connected layers of which all responses are wanted.
    per_sample
        The number of positions in the output of every sample, by site name.
    patches
        The names of the sites whose input patches are wanted as well.
    patch_batches
        The number of batches, from the first one of the run on, of which patches are taken.
    patches_per_site
        About how many patches of a site are taken from all these batches together, at most.
    """

    sites: tuple[ConvSite, ...]
    dense: tuple[DenseLayer, ...]
    per_sample: Mapping[str, int]
    patches: frozenset[str]
    patch_batches: int
    patches_per_site: int = MOST_PATCHES


@dataclass(frozen=True)
class LayerSample:
    """The samples of one layer from one batch.

    Attributes
    ----------
    batch
        The number of the batch.
    name
        The name of the site or of the fully connected layer.
    rows
        The responses before the activation, or the sums where a shortcut joins, [m, d].
    responses
        The responses without the shortcut, [m, d], where one joins; else None.
    patches
        The patches [k, c of a group, *sizes] that every group reads; none where they are not wanted.
    """

    batch: int
    name: str
    rows: Array
    responses: Array | None = None
    patches: Sequence[Array] = ()


@dataclass(frozen=True)
class RowsQuestion:
    """The question for the samples of one site.

    Attributes
    ----------
    site
        The convolution.
    per_sample
        The number of positions that are drawn in the output of every sample.
    first
        The number of them that are looked at, from the first one on; None for all of them.
    """

    site: ConvSite
    per_sample: int
    first: int | None = None

    @property
    def looked_at(self) -> int:
        """The number of positions that are looked at in the output of every sample."""
        return self.per_sample if self.first is None else self.first


@dataclass(frozen=True)
class SiteRows:
    """The samples of one site from the approximated network.

    Attributes
    ----------
    inputs
        The columns [n, s, q] that the form of every group reads of its patches (``Form.inputs``).
    shortcut
        The shortcut that joins the response, [n, d]; None where none does.
    """

    inputs: tuple[Array, ...]
    shortcut: Array | None


@dataclass(frozen=True)
class TensorsQuestion:
    """The question for tensors of some batches, or for windows of them.

    Attributes
    ----------
    names
        The tensors.
    behind
        A tensor that the last node in front of the cut makes, up to which the batches run; None for the beginning.
    windows
        The positions that are wanted along every spatial axis, by the name of the tensor, window by window, for every
        batch that is looked at; the whole tensor where it is not named.
    """

    names: tuple[str, ...]
    behind: str | None
    windows: Mapping[int, Sequence[Mapping[str, tuple[slice, ...]]]]


@dataclass(frozen=True)
class Tap:
    """A tensor of which some values are wanted.

    Attributes
    ----------
    tensor
        The tensor.
    site
        The name of the layer at whose positions it is looked at, like the responses of that layer; None where any
        values will do.
    count
        The number of positions of every sample; where there is no layer, the number of values of every batch.
    """

    tensor: str
    site: str | None
    count: int


@dataclass(frozen=True)
class Tapped:
    """The values of a tensor from one batch.

    Attributes
    ----------
    batch, tensor
        The number of the batch, and the tensor.
    values
        [m, channels] at the positions of a layer, else [m].
    low, high
        The least and the greatest of all its values.
    """

    batch: int
    tensor: str
    values: Array
    low: float
    high: float


class Shard(Protocol):
    """Samples, and the network approximated so far, which runs on them."""

    @property
    def macs_executed(self) -> int:
        """The multiply-accumulates that the answers to ``rows`` and ``reads`` have taken."""

    def profile(self, question: ProfileQuestion) -> Iterator[LayerSample]:
        """Sample the network as it is now.

        The batches come in their order, and the layers of each batch in the order of the question. A fully connected
        layer is left out of a batch of which it does not make one row per sample.
        """

    def taps(self, taps: Sequence[Tap]) -> Iterator[Tapped]:
        """Look at tensors of the network as it is now, batch by batch, in the order of the question."""

    def rows(self, questions: Sequence[RowsQuestion], forms: Sequence[Form], memory: int) -> tuple[SiteRows, ...]:
        """Sample what some sites, which share their weights, read now.

        Parameters
        ----------
        questions
            A question for every site. None of the sites comes before the first one of an earlier question.
        forms
            The form of every group.
        memory
            The number of bytes that the shard may hold of activations until the next question.
        """

    def reads(self, layer: DenseLayer, memory: int) -> Array:
        """Return the rows [n, p], float32, that a fully connected layer reads now; ``memory`` is as for ``rows``."""

    def results(self, network: Network, outputs: Sequence[str], first: int = 0) -> Iterator[tuple[int, Feeds]]:
        """Yield the number of every batch with some outputs of a network, run from where the last question led.

        Parameters
        ----------
        network
            A copy of the shard's network which may differ from the layers of the last question on.
        outputs
            The names of tensors that depend on these layers.
        first
            The number of the first batch that is wanted.
        """

    def tensors(self, question: TensorsQuestion, memory: int) -> Iterator[tuple[int, list[dict[str, Array]]]]:
        """Look at tensors in front of a cut, which no earlier question has passed; ``memory`` is as for ``rows``.

        Yields
        ------
        tuple
            The number of a batch, and its tensors by name for every window.
        """

    @property
    def network(self) -> Network:
        """The network approximated so far, which is not to be changed."""

    def mark(self) -> None:
        """Remember the cut that the samples have reached, until layers behind it are refined."""

    def refined(self, values: Mapping[str, Array]) -> None:
        """Give stored tensors behind the marked cut new values, by name, and let the samples return to this cut.

        Where there are no values, nothing changes, and the cut is forgotten.
        """

    def advance(self, replacements: Sequence[Replacement], macs: Sequence[int]) -> None:
        """Replace sites by factorisations, each of which takes so many MACs for one sample.

        Raises
        ------
        ValidationError
            If a factor does not fit the type of the weights; the network stays as it was.
        """

    def round(self, replacement: Replacement, integers: IntegerLayer) -> None:
        """Give a layer new weights, which are stored as integers."""

    def reweight(self, layer: DenseLayer, weight: Array | None, bias: Array | None) -> bool:
        """Give a fully connected layer new weights, [d, p] and [d]; None leaves those that are there.

        Returns
        -------
        bool
            False where the new weights do not fit their type; the network stays as it was.
        """
