"""The network approximated so far, advanced piece by piece over all batches.

The graph is cut in front of every site, be it a convolution or a fully connected layer. From one cut to the next every
batch runs through one piece of the graph, from the live tensors of the last cut to those of the next, so each sample
passes each layer once, whatever the depth. Live tensors that do not fit in memory are recomputed from the last cut
where that is cheap, else kept on disk.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.store import _Store
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import live_tensors, segment
from onnx_lowrank.graph.traverse import position
from onnx_lowrank.interface import Feeds
from onnx_lowrank.runtime.session import Opener

Array = NDArray[Any]

CHEAP_SHARE = 0.01
"""A stretch of the network cheaper than this share of the whole is always run again: storing it would gain nothing."""

RECOMPUTE_SHARE = 0.05
"""The same share where the alternative is the disk."""


class Frontier:
    """The network approximated so far, advanced piece by piece over all batches.

    Parameters
    ----------
    graph
        The network; its nodes behind the frontier may be rewritten between two calls.
    sampling
        The batches.
    open_session
        Opens the pieces.
    macs
        MACs of one sample by output tensor of the node, kept up to date by the caller when nodes are rewritten.

    Attributes
    ----------
    memory
        Bytes that live tensors may take from the next visit on; beyond that they are recomputed where that is cheap,
        else put on disk. Set by the caller.
    macs_executed
        MACs of all pieces that ran, over all samples.
    """

    def __init__(self, graph: Network, sampling: Sampling, open_session: Opener, macs: dict[str, int]) -> None:
        self._graph, self._sampling, self._open, self._macs = graph, sampling, open_session, macs
        self.memory = 0
        self._cut = 0
        self._store: _Store | None = None  # None: the cut is the network's input, read from the source
        self.macs_executed = 0
        self._folder = contextlib.ExitStack()

    def __enter__(self) -> "Frontier":
        return self

    def __exit__(self, *exception: object) -> None:
        self._folder.close()

    def visit(self, site: ConvSite | DenseLayer) -> Iterator[tuple[Array, Array | None]]:
        """Run up to a site and yield the tensor that it reads, and the shortcut that joins it, batch by batch.

        The cut moves along where that pays. A shortcut that is made behind the site, such as a projection that the
        file lists later, is computed ahead of its turn.
        """
        stop = position(self._graph, site.output)
        live = live_tensors(self._graph, stop)
        shortcut = site.join.shortcut if isinstance(site, ConvSite) and site.join else None
        ahead = [shortcut] if shortcut and shortcut not in live else []
        end = max([stop, *(position(self._graph, name) + 1 for name in ahead)])
        session: Any = None
        macs_ahead = 0
        following: _Store | None = None
        for b, batch in enumerate(self._sampling.batches):
            held = self._store.read(b) if self._store else self._sampling.source.feeds(batch)
            made = [name for name in live if name not in held] + ahead
            if session is None and made:
                dtypes = {name: value.dtype for name, value in held.items()}
                piece = segment(self._graph, self._cut, end, made, dtypes)
                session = self._open(piece, f"the piece in front of {site.name}")
                wanted = [value.name for value in piece.graph.input]
                macs_ahead = self._macs_ahead((name for node in piece.graph.node for name in node.output), stop)
            if session is not None:
                made_now = session({name: held[name] for name in wanted})
                tensors = {name: made_now[name] if name in made_now else held[name] for name in live}
            else:
                made_now, tensors = {}, held
            if b == 0 and session is not None:
                following = self._next_store(tensors, stop)
            if following is not None:
                if self._store:
                    self._store.drop(b)
                following.write(b, tensors)
            yield tensors[site.input], (tensors | made_now)[shortcut] if shortcut else None
        self.macs_executed += self._sampling.samples * (self._macs_between(self._cut, stop) + macs_ahead)
        if following is not None:
            self._store, self._cut = following, stop

    def _macs_ahead(self, made: Iterable[str], stop: int) -> int:
        """MACs of one sample of those nodes behind a cut that make one of these tensors."""
        behind = {output.name for node in self._graph.nodes[stop:] for output in node.outputs}
        return sum(self._macs.get(name, 0) for name in made if name in behind)

    def _macs_between(self, start: int, stop: int) -> int:
        outputs = (output.name for node in self._graph.nodes[start:stop] for output in node.outputs)
        return sum(self._macs.get(name, 0) for name in outputs)

    def _next_store(self, tensors: Feeds, stop: int) -> "_Store | None":
        """Where the tensors of the new cut go; None: nowhere, the cut stays where it is."""
        share = self._macs_between(self._cut, stop) / max(1, sum(self._macs.values()))
        if share <= CHEAP_SHARE:
            return None
        size = sum(value.nbytes for value in tensors.values()) * len(self._sampling.batches)
        held = self._store.bytes if self._store else 0
        # Batches move over one at a time, so old and new tensors are never held in full together.
        if max(size, held) <= self.memory:
            return _Store(None)
        if share <= RECOMPUTE_SHARE:
            return None
        folder = self._folder.enter_context(tempfile.TemporaryDirectory(prefix="onnx-lowrank-"))
        return _Store(Path(folder))
