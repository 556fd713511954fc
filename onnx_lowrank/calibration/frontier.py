"""The frontier of a shard: the cut that its batches have reached in the network approximated so far.

The network is cut in front of every layer that is visited. Between two cuts every batch runs through one piece of the
network, from the live tensors of the last cut to those of the next one. Each sample therefore passes each layer once,
however deep the network is. Live tensors that do not fit in memory are computed again from the last cut where that is
cheap; elsewhere they are kept on disk. What NumPy cannot hold crosses a cut in a wider type, or is made again behind
it; the types that ONNX Runtime gives the tensors decide.
"""

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.calibration.pieces import Piece, Visit, Way
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.store import TensorStore
from onnx_lowrank.graph.carried import NARROW, carrying
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import live_tensors, segment, state_ranks
from onnx_lowrank.graph.traverse import position
from onnx_lowrank.interface import Feeds
from onnx_lowrank.runtime.held_values import is_numeric
from onnx_lowrank.runtime.session import Opener

Array = NDArray[Any]

CHEAP_SHARE = 0.01
"""A piece with less than this share of the network's MACs is always run again: storing its results would gain nothing.
"""

RECOMPUTE_SHARE = 0.05
"""A piece with less than this share is run again where its results would have to go to disk."""


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
        self._narrow: dict[str, int] = {}  # tensors that cross a cut in a wider type
        self._unkept: set[str] = set()  # tensors that cannot cross a cut: what they are made from does
        self._store: TensorStore | None = None  # None: the cut is the network's input, which the source delivers
        self._mark: tuple[int, TensorStore | None] | None = None
        self.macs_executed = 0

    def close(self) -> None:
        """Give up all tensors in memory and on disk; the next visit starts from the network's input."""
        self.unmark()
        self._move(0, None)

    def mark(self) -> None:
        """Remember the cut, with its tensors, until ``go_back`` or ``unmark``; there is one mark at a time."""
        self.unmark()
        self._mark = self._cut, self._store

    def go_back(self) -> None:
        """Return to the cut that was remembered, because nodes behind it have changed."""
        assert self._mark is not None
        cut, store = self._mark
        if self._store is not store:
            self._move(cut, store)
        self._mark = None

    def unmark(self) -> None:
        """Forget the cut that was remembered."""
        if self._mark and self._mark[1] and self._mark[1] is not self._store:
            self._mark[1].close()
        self._mark = None

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
        shortcuts = [layer.join.shortcut if isinstance(layer, ConvSite) and layer.join else None for layer in layers]
        looked_at = list(dict.fromkeys([*(layer.input for layer in layers), *(name for name in shortcuts if name)]))
        with contextlib.closing(self.tensors(stop, looked_at, layers[0].name, memory)) as batches:
            for batch, at_hand in batches:
                yield Visit(
                    batch,
                    tuple(at_hand[layer.input] for layer in layers),
                    tuple(at_hand[name] if name else None for name in shortcuts),
                )

    def tensors(
        self, stop: int, looked_at: Sequence[str], label: str, memory: int
    ) -> Generator[tuple[int, Mapping[str, Any]]]:
        """Run up to a cut, batch by batch, and move the cut of the batches there where that pays; see ``visit``.

        Parameters
        ----------
        stop
            The index of the node in front of which the batches come to lie, at least that of an earlier visit.
        looked_at
            The names of tensors that are wanted. What is made behind the cut is computed ahead of its turn.
        label
            What is behind the cut, for error messages.
        memory
            See ``visit``.

        Yields
        ------
        tuple
            The number of the batch, and its tensors by name.
        """
        way: Way | None = None
        following: TensorStore | None = None
        try:
            for batch in self._batches:
                samples = self._sampling.batches[batch]
                held = self._store.read(batch) if self._store else self._sampling.source.feeds(samples)
                way = way or self._way(stop, looked_at, held, f"the piece in front of {label}")
                computed, tensors = {}, held
                if way.piece:
                    computed = way.piece.run(held)
                    tensors = {name: computed[name] if name in computed else held[name] for name in way.live}
                    self.macs_executed += round(float(self._sampling.amounts([batch]).sum()) * way.piece.macs)
                    if batch == self._batches[0]:
                        following = self._next_store(tensors, stop, memory)
                if following:
                    if self._store and not self._is_marked:
                        self._store.drop(batch)
                    following.write(batch, tensors)
                yield batch, tensors | computed
        except BaseException:
            # Some batches have moved on and others have not.
            if following:
                following.close()
            self.close()
            raise
        if following:
            self._move(stop, following)

    def results(self, network: Network, outputs: Sequence[str], first: int = 0) -> Iterator[tuple[int, Feeds]]:
        """Run from the cut to some outputs, batch by batch; the cut stays where it is.

        Parameters
        ----------
        network
            A copy of this network which may differ behind the cut.
        outputs
            The names of its tensors that are wanted, none of which is made in front of the cut.
        first
            The number of the first batch that is run.

        Yields
        ------
        tuple of int and Feeds
            The number of the batch, and the outputs by name.
        """
        piece: Piece | None = None
        for batch in (each for each in self._batches if each >= first):
            samples = self._sampling.batches[batch]
            held = self._store.read(batch) if self._store else self._sampling.source.feeds(samples)
            piece = piece or self._piece(network, len(network.nodes), outputs, held, "a rehearsal")
            yield batch, piece.run(held)

    def _move(self, cut: int, store: TensorStore | None) -> None:
        if self._store and not self._is_marked:
            self._store.close()
        self._cut, self._store = cut, store

    @property
    def _is_marked(self) -> bool:
        """Whether the tensors at the cut are to be kept when it moves on."""
        return self._mark is not None and self._mark[1] is self._store

    def _way(self, stop: int, looked_at: Sequence[str], held: Feeds, label: str) -> Way:
        """Open the piece up to a cut. The types of its outputs show which of them can cross the cut as they are."""
        while True:
            live = live_tensors(self._network, stop, self._unkept)
            ahead = [name for name in looked_at if name not in live]
            wanted = [name for name in (*live, *ahead) if name not in held]
            if not wanted:
                return Way(live, None)
            end = max(stop, *(position(self._network, name) + 1 for name in wanted))
            piece = self._piece(self._network, end, wanted, held, label)
            kinds = piece.session.types
            narrow = {name: NARROW[kind] for name, kind in kinds.items() if kind in NARROW}
            unkept = {name for name, kind in kinds.items() if kind not in NARROW and not is_numeric(kind)}
            if not narrow and not unkept:
                return Way(live, piece)
            del piece  # its session holds weights, which the next one holds as well
            self._narrow |= narrow
            self._unkept |= unkept

    def _piece(self, network: Network, end: int, wanted: Sequence[str], held: Feeds, label: str) -> Piece:
        dtypes = {name: value.dtype for name, value in held.items()}
        model = segment(network, self._cut, end, wanted, dtypes, self._unkept)
        if any(node.op_type == "Scan" for node in model.graph.node):
            state_ranks(model, {name: value.ndim for name, value in held.items()})
        inputs = tuple(value.name for value in model.graph.input)
        outputs = (name for node in model.graph.node for name in node.output)
        macs = sum(self._macs.get(name, 0) for name in outputs)
        carrier, names = carrying(model, self._narrow)
        session = self._open(carrier, label)
        return Piece(session.named(names) if names else session, inputs, macs)

    def _next_store(self, tensors: Feeds, stop: int, memory: int) -> TensorStore | None:
        """Return a store for the tensors of the next cut; None where the cut stays and the piece is run again."""
        passed = (output.name for node in self._network.nodes[self._cut : stop] for output in node.outputs)
        share = sum(self._macs.get(name, 0) for name in passed) / max(1, sum(self._macs.values()))
        if share <= CHEAP_SHARE:
            return None
        # The tensors of the first batch tell those of the others, which may be of larger samples.
        first = self._sampling.amounts(self._batches[:1])
        batches = float(self._sampling.amounts(self._batches).sum() / first.sum())
        size = sum(value.nbytes for value in tensors.values()) * batches
        held = self._store.bytes if self._store else 0
        if self._mark and self._mark[1]:
            memory -= self._mark[1].bytes
            held = 0 if self._is_marked else held
        # Batches move over one at a time, so the old and the new tensors are never held in full together.
        if max(size, held) <= memory:
            return TensorStore(on_disk=False)
        return TensorStore(on_disk=True) if share > RECOMPUTE_SHARE else None
