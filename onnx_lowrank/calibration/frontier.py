"""The frontier of a shard: the cut that its batches have reached in the network approximated so far.

The network is cut in front of every layer that is visited. Between two cuts every batch runs through one piece of the
network, from the live tensors of the last cut to those of the next one. Each sample therefore passes each layer once,
however deep the network is. Live tensors that do not fit in memory are computed again from the last cut where that is
cheap; elsewhere they are kept on disk.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.store import TensorStore
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import live_tensors, segment
from onnx_lowrank.graph.traverse import position
from onnx_lowrank.interface import Feeds
from onnx_lowrank.runtime.session import Opener, Session

Array = NDArray[Any]

CHEAP_SHARE = 0.01
"""A piece with less than this share of the network's MACs is always run again: storing its results would gain nothing.
"""

RECOMPUTE_SHARE = 0.05
"""A piece with less than this share is run again where its results would have to go to disk."""


@dataclass(frozen=True)
class Visit:
    """One batch in front of a layer, or of several that are solved together.

    Attributes
    ----------
    batch
        The number of the batch.
    inputs
        The tensor that each layer reads.
    shortcuts
        The tensor that joins the response of each layer; None where none does.
    """

    batch: int
    inputs: tuple[Array, ...]
    shortcuts: tuple[Array | None, ...]


@dataclass(frozen=True)
class _Piece:
    """The part of the network from the last cut to a layer.

    Attributes
    ----------
    session
        The part as a model that can be run.
    inputs
        The names of the live tensors that it reads.
    macs
        The MACs of one sample.
    """

    session: Session
    inputs: tuple[str, ...]
    macs: int

    def run(self, tensors: Feeds) -> Feeds:
        """Return the results for the live tensors of one batch."""
        return self.session({name: tensors[name] for name in self.inputs})


class Frontier:
    """The frontier of some of the batches.

    Parameters
    ----------
    network
        The network approximated so far. Its nodes behind the frontier may be rewritten between two visits.
    sampling
        All samples of the run.
    batches
        The numbers of the batches that are run.
    open_session
        Opens the pieces.
    macs
        The MACs of one sample by the output tensor of the node.

    Attributes
    ----------
    macs_executed
        The MACs of all pieces that were run, over all samples.
    """

    def __init__(
        self, network: Network, sampling: Sampling, batches: range, open_session: Opener, macs: Mapping[str, int]
    ) -> None:
        self._network, self._sampling, self._batches, self._open = network, sampling, batches, open_session
        self._macs = dict(macs)
        self._cut = 0
        self._store: TensorStore | None = None  # None: the cut is the network's input, which the source delivers
        self.macs_executed = 0

    def close(self) -> None:
        """Give up all tensors in memory and on disk; the next visit starts from the network's input."""
        self._move(0, None)

    def set_macs(self, output: str, macs: int) -> None:
        """Set the MACs of one sample of the node that makes a tensor."""
        self._macs[output] = macs

    def visit(self, layers: Sequence[ConvSite | DenseLayer], memory: int) -> Generator[Visit]:
        """Run up to the first of some layers, batch by batch, and move the cut there where that pays.

        What is made behind the cut is computed ahead of its turn: a shortcut such as a projection that the file lists
        later, or the input of a layer that depends on another one of them. After a visit that was not finished, the
        next one starts from the network's input.

        Parameters
        ----------
        layers
            The layers. None comes before the first one of an earlier visit.
        memory
            The number of bytes that live tensors may take from now on. Beyond that they are computed again where that
            is cheap, and elsewhere kept on disk.
        """
        stop = min(position(self._network, layer.output) for layer in layers)
        live = live_tensors(self._network, stop)
        shortcuts = [layer.join.shortcut if isinstance(layer, ConvSite) and layer.join else None for layer in layers]
        looked_at = [*(layer.input for layer in layers), *(name for name in shortcuts if name)]
        ahead = [name for name in dict.fromkeys(looked_at) if name not in live]
        piece: _Piece | None = None
        following: TensorStore | None = None
        try:
            for batch in self._batches:
                samples = self._sampling.batches[batch]
                held = self._store.read(batch) if self._store else self._sampling.source.feeds(samples)
                wanted = [name for name in live if name not in held] + ahead
                if piece is None and wanted:
                    piece = self._piece(stop, wanted, held, f"the piece in front of {layers[0].name}")
                computed, tensors = {}, held
                if piece:
                    computed = piece.run(held)
                    tensors = {name: computed[name] if name in computed else held[name] for name in live}
                    self.macs_executed += len(samples) * piece.macs
                    if batch == self._batches[0]:
                        following = self._next_store(tensors, stop, memory)
                if following:
                    if self._store:
                        self._store.drop(batch)
                    following.write(batch, tensors)
                at_hand = tensors | computed
                yield Visit(
                    batch,
                    tuple(at_hand[layer.input] for layer in layers),
                    tuple(at_hand[name] if name else None for name in shortcuts),
                )
        except BaseException:
            # Some batches have moved on and others have not.
            if following:
                following.close()
            self._move(0, None)
            raise
        if following:
            self._move(stop, following)

    def _move(self, cut: int, store: TensorStore | None) -> None:
        if self._store:
            self._store.close()
        self._cut, self._store = cut, store

    def _piece(self, stop: int, wanted: Sequence[str], held: Feeds, label: str) -> _Piece:
        end = max(stop, *(position(self._network, name) + 1 for name in wanted))
        dtypes = {name: value.dtype for name, value in held.items()}
        model = segment(self._network, self._cut, end, wanted, dtypes)
        inputs = tuple(value.name for value in model.graph.input)
        outputs = (name for node in model.graph.node for name in node.output)
        return _Piece(self._open(model, label), inputs, sum(self._macs.get(name, 0) for name in outputs))

    def _next_store(self, tensors: Feeds, stop: int, memory: int) -> TensorStore | None:
        """Return a store for the tensors of the next cut; None where the cut stays and the piece is run again."""
        passed = (output.name for node in self._network.nodes[self._cut : stop] for output in node.outputs)
        share = sum(self._macs.get(name, 0) for name in passed) / max(1, sum(self._macs.values()))
        if share <= CHEAP_SHARE:
            return None
        size = sum(value.nbytes for value in tensors.values()) * len(self._batches)
        held = self._store.bytes if self._store else 0
        # Batches move over one at a time, so the old and the new tensors are never held in full together.
        if max(size, held) <= memory:
            return TensorStore(on_disk=False)
        return TensorStore(on_disk=True) if share > RECOMPUTE_SHARE else None
