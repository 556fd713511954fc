"""The network approximated so far, advanced piece by piece over the batches of one shard.

The network is cut in front of every layer that is visited. From one cut to the next every batch runs through one piece,
from the live tensors of the last cut to those of the next, so each sample passes each layer once, whatever the depth.
Live tensors that do not fit in memory are computed again from the last cut where that is cheap; otherwise they are kept
on disk.
"""

import contextlib
import tempfile
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
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
"""A stretch of the network cheaper than this share of the whole is always run again: storing it would gain nothing."""

RECOMPUTE_SHARE = 0.05
"""The same share where the alternative is the disk."""


@dataclass(frozen=True)
class Visit:
    """One batch in front of a layer: its number, what the layer reads, and the shortcut that joins the response."""

    batch: int
    x: Array
    shortcut: Array | None


@dataclass(frozen=True)
class _Piece:
    """The stretch of the network between the last cut and a layer."""

    session: Session
    inputs: tuple[str, ...]
    macs_ahead: int  # of one sample, of nodes behind the layer that make its shortcut


class Frontier:
    """The network approximated so far on some of the batches.

    Parameters
    ----------
    network
        The nodes behind the frontier may be rewritten between two visits.
    sampling
        All samples.
    batches
        The numbers of the batches that are run.
    open_session
        Opens the pieces.
    macs
        The MACs of one sample by the output tensor of the node.

    Attributes
    ----------
    macs_executed
        The MACs of all pieces that ran, over all samples.
    """

    def __init__(
        self, network: Network, sampling: Sampling, batches: range, open_session: Opener, macs: Mapping[str, int]
    ) -> None:
        self._network, self._sampling, self._batches, self._open = network, sampling, batches, open_session
        self._macs = dict(macs)
        self._cut = 0
        self._store: TensorStore | None = None  # None: the cut is the network's input, read from the source
        self._folder = contextlib.ExitStack()
        self.macs_executed = 0

    def close(self) -> None:
        """Remove the temporary files."""
        self._folder.close()

    def replaced(self, output: str, macs: int) -> None:
        """Take note that the node that makes this tensor now costs so many MACs of one sample."""
        self._macs[output] = macs

    def visit(self, layer: ConvSite | DenseLayer, memory: int) -> Generator[Visit]:
        """Run up to a layer, batch by batch.

        The cut moves along where that pays. A shortcut that is made behind the layer, such as a projection that the
        file lists later, is computed ahead of its turn. A visit that is not finished starts again from the network's
        input the next time.

        Parameters
        ----------
        layer
            Where to go; never in front of the last layer that was visited.
        memory
            Bytes that live tensors may take from now on; beyond that they are recomputed where that is cheap, else put
            on disk.
        """
        stop = position(self._network, layer.output)
        live = live_tensors(self._network, stop)
        shortcut = layer.join.shortcut if isinstance(layer, ConvSite) and layer.join else None
        ahead = [shortcut] if shortcut and shortcut not in live else []
        piece: _Piece | None = None
        following: TensorStore | None = None
        try:
            for b in self._batches:
                held = self._store.read(b) if self._store else self._sampling.source.feeds(self._sampling.batches[b])
                wanted = [name for name in live if name not in held] + ahead
                if piece is None and wanted:
                    piece = self._piece(stop, wanted, ahead, held, layer.name)
                computed = piece.session({name: held[name] for name in piece.inputs}) if piece else {}
                tensors = {name: computed[name] if name in computed else held[name] for name in live} if piece else held
                if b == self._batches[0] and piece:
                    following = self._next_store(tensors, stop, memory)
                if following is not None:
                    if self._store:
                        self._store.drop(b)
                    following.write(b, tensors)
                yield Visit(b, tensors[layer.input], (tensors | computed)[shortcut] if shortcut else None)
        except BaseException:
            # Some batches have moved on and some have not.
            self._store, self._cut = None, 0
            raise
        samples = sum(len(self._sampling.batches[b]) for b in self._batches)
        macs_ahead = piece.macs_ahead if piece else 0
        self.macs_executed += samples * (self._macs_between(self._cut, stop) + macs_ahead)
        if following is not None:
            self._store, self._cut = following, stop

    def _piece(self, stop: int, wanted: list[str], ahead: list[str], held: Feeds, name: str) -> _Piece:
        end = max([stop, *(position(self._network, tensor) + 1 for tensor in ahead)])
        dtypes = {tensor: value.dtype for tensor, value in held.items()}
        model = segment(self._network, self._cut, end, wanted, dtypes)
        macs_ahead = self._macs_ahead((tensor for node in model.graph.node for tensor in node.output), stop)
        inputs = tuple(value.name for value in model.graph.input)
        return _Piece(self._open(model, f"the piece in front of {name}"), inputs, macs_ahead)

    def _macs_ahead(self, outputs: Iterable[str], stop: int) -> int:
        """The MACs of one sample of those nodes behind a cut that make one of these tensors."""
        behind = {output.name for node in self._network.nodes[stop:] for output in node.outputs}
        return sum(self._macs.get(name, 0) for name in outputs if name in behind)

    def _macs_between(self, start: int, stop: int) -> int:
        outputs = (output.name for node in self._network.nodes[start:stop] for output in node.outputs)
        return sum(self._macs.get(name, 0) for name in outputs)

    def _next_store(self, tensors: Feeds, stop: int, memory: int) -> TensorStore | None:
        """Where the tensors of the new cut go; None: nowhere, the cut stays where it is."""
        share = self._macs_between(self._cut, stop) / max(1, sum(self._macs.values()))
        if share <= CHEAP_SHARE:
            return None
        size = sum(value.nbytes for value in tensors.values()) * len(self._batches)
        held = self._store.bytes if self._store else 0
        # Batches move over one at a time, so old and new tensors are never held in full together.
        if max(size, held) <= memory:
            return TensorStore(None)
        if share <= RECOMPUTE_SHARE:
            return None
        folder = self._folder.enter_context(tempfile.TemporaryDirectory(prefix="onnx-lowrank-"))
        return TensorStore(Path(folder))
