"""A shard in this process, which holds samples and runs the network on them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.frontier import Frontier
from onnx_lowrank.calibration.positions import gather_patches, gather_points
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.shard import (
    LayerSample,
    ProfileQuestion,
    RowsQuestion,
    SiteRows,
    Tap,
    Tapped,
    TensorsQuestion,
)
from onnx_lowrank.calibration.sizes import run_of_any_size
from onnx_lowrank.calibration.transposed_patches import transposed_patches
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.graph.edit.reweight import replace_stored, replace_weights
from onnx_lowrank.graph.edit.rewrite import Replacement, rewrite_together
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.integers import IntegerLayer, store_integers
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.graph.traverse import position
from onnx_lowrank.interface import Feeds
from onnx_lowrank.runtime.carrying_session import open_carrying
from onnx_lowrank.runtime.session import Opener

Array = NDArray[Any]

BYTES_AT_ONCE = 256 << 20
"""The number of bytes that patches may take that are gathered at once."""


class LocalShard:
    """A shard in this process; as a context, it gives up its activations at the end.

    Parameters
    ----------
    network
        The shard's own network, which changes as the shard advances.
    sampling
        All samples of the run.
    batches
        The numbers of the batches that belong to the shard.
    open_session
        Opens the network and its pieces.
    macs
        The MACs of one sample by the output tensor of the node.
    """

    def __init__(
        self, network: Network, sampling: Sampling, batches: range, open_session: Opener, macs: Mapping[str, int]
    ) -> None:
        self._network, self._sampling, self._batches, self._open = network, sampling, batches, open_session
        self._frontier = Frontier(network, sampling, batches, open_session, macs)

    def __enter__(self) -> "LocalShard":
        return self

    def __exit__(self, *exception: object) -> None:
        self._frontier.close()

    @property
    def macs_executed(self) -> int:
        """See ``Shard``."""
        return self._frontier.macs_executed

    def profile(self, question: ProfileQuestion) -> Iterator[LayerSample]:
        """See ``Shard``."""
        # Fewer tensors are tapped where no patches are taken. The models run one after the other, because each session
        # holds all weights.
        for _, batches in groupby(self._batches, lambda batch: self._tapped(question, batch)):
            yield from self._profile(question, list(batches))

    def _profile(self, question: ProfileQuestion, batches: Sequence[int]) -> Iterator[LayerSample]:
        """Sample batches on which the same tensors are tapped."""
        tapped = whole(self._network, self._tapped(question, batches[0]))
        session = open_carrying(self._open, tapped, "the model")
        for batch in batches:
            samples = self._sampling.batches[batch]
            feeds = self._sampling.source.feeds(samples)
            tensors = feeds | run_of_any_size(session, feeds, self._sampling)
            for site in question.sites:
                yield self._layer_sample(question, batch, site, tensors)
            for layer in question.dense:
                if tensors[layer.target].shape == (len(samples), len(layer.bias)):
                    yield LayerSample(batch, layer.name, tensors[layer.target])

    def _tapped(self, question: ProfileQuestion, batch: int) -> list[str]:
        """Return the names of the tensors that are looked at in a batch."""
        names = [site.target for site in question.sites] + [site.output for site in question.sites if site.join]
        names += [layer.target for layer in question.dense]
        if batch < question.patch_batches:
            # Not every execution provider takes an input of the model that is an output as well.
            fed = {tensor.name for tensor in self._network.inputs}
            reading = (site.input for site in question.sites if site.name in question.patches)
            names += dict.fromkeys(name for name in reading if name not in fed)
        return names

    def _layer_sample(
        self, question: ProfileQuestion, batch: int, site: ConvSite, tensors: Mapping[str, Array]
    ) -> LayerSample:
        y, count = tensors[site.target], question.per_sample[site.name]
        if site.join:
            y = site.join.as_response(y)
        size = y.shape[2:]
        positions = self._sampling.positions(site.name, batch, size, count)
        rows = gather_points(y, positions)
        responses = gather_points(tensors[site.output], positions) if site.join else None
        if batch >= question.patch_batches or site.name not in question.patches:
            return LayerSample(batch, site.name, rows, responses)
        samples = len(self._sampling.batches[batch])
        most = min(
            -(-question.patches_per_site // (question.patch_batches * samples)), patches_at_once(site) // samples
        )
        positions = self._sampling.positions(site.name, batch, size, max(1, min(count, most)))
        return LayerSample(batch, site.name, rows, responses, site_patches(site, tensors[site.input], positions))

    def taps(self, taps: Sequence[Tap]) -> Iterator[Tapped]:
        """See ``Shard``."""
        fed = {tensor.name for tensor in self._network.inputs}
        names = list(dict.fromkeys(tap.tensor for tap in taps if tap.tensor not in fed))
        session = open_carrying(self._open, whole(self._network, names), "the model")
        for batch in self._batches:
            feeds = self._sampling.source.feeds(self._sampling.batches[batch])
            tensors = feeds | run_of_any_size(session, feeds, self._sampling)
            for tap in taps:
                values = tensors[tap.tensor]
                yield Tapped(
                    batch, tap.tensor, self._seen(tap, batch, values), float(values.min()), float(values.max())
                )

    def _seen(self, tap: Tap, batch: int, values: Array) -> Array:
        """Return the values of one tensor that a tap wants."""
        if tap.site is None:
            flat = values.reshape(-1)
            return flat[:: max(1, flat.size // tap.count)].astype(np.float32)
        return gather_points(values, self._sampling.positions(tap.site, batch, values.shape[2:], tap.count))

    def rows(self, questions: Sequence[RowsQuestion], forms: Sequence[Form], memory: int) -> tuple[SiteRows, ...]:
        """See ``Shard``."""
        samples = sum(len(self._sampling.batches[batch]) for batch in self._batches)
        collected = [_Collected(question, forms, samples * question.looked_at) for question in questions]
        with contextlib.closing(self._frontier.visit([question.site for question in questions], memory)) as visits:
            for visit in visits:
                for own, x, shortcut in zip(collected, visit.inputs, visit.shortcuts, strict=True):
                    own.add(self._sampling, visit.batch, x, shortcut)
        return tuple(own.rows for own in collected)

    def reads(self, layer: DenseLayer, memory: int) -> Array:
        """See ``Shard``."""
        with contextlib.closing(self._frontier.visit([layer], memory)) as visits:
            return np.concatenate([visit.inputs[0].astype(np.float32, copy=False) for visit in visits])

    def results(self, network: Network, outputs: Sequence[str], first: int = 0) -> Iterator[tuple[int, Feeds]]:
        """See ``Shard``."""
        return self._frontier.results(network, outputs, first)

    def tensors(self, question: TensorsQuestion, memory: int) -> Iterator[tuple[int, list[dict[str, Array]]]]:
        """See ``Shard``."""
        stop = 0 if question.behind is None else position(self._network, question.behind) + 1
        label = f"what follows {question.behind}" if question.behind else "the network"
        with contextlib.closing(self._frontier.tensors(stop, question.names, label, memory)) as batches:
            for batch, values in batches:
                if batch in question.windows:
                    yield batch, [_seen_through(window, question.names, values) for window in question.windows[batch]]

    @property
    def network(self) -> Network:
        """See ``Shard``."""
        return self._network

    def mark(self) -> None:
        """See ``Shard``."""
        self._frontier.mark()

    def refined(self, values: Mapping[str, Array]) -> None:
        """See ``Shard``."""
        if values:
            replace_stored(self._network, values)
            self._frontier.go_back()
        else:
            self._frontier.unmark()

    def advance(self, replacements: Sequence[Replacement], macs: Sequence[int]) -> None:
        """See ``Shard``."""
        rewrite_together(self._network, replacements)
        for replacement, own in zip(replacements, macs, strict=True):
            self._frontier.set_macs(replacement.site.output, own)

    def round(self, replacement: Replacement, integers: IntegerLayer) -> None:
        """See ``Shard``."""
        rewrite_together(self._network, [replacement])
        store_integers(self._network, [integers])

    def reweight(self, layer: DenseLayer, weight: Array | None, bias: Array | None) -> bool:
        """See ``Shard``."""
        return replace_weights(self._network, layer, weight, bias)


class _Collected:
    """The rows of one site, collected batch by batch.

    Parameters
    ----------
    question
        The site, and the positions that are looked at.
    forms
        The form of every group.
    most
        The largest number of rows.
    """

    def __init__(self, question: RowsQuestion, forms: Sequence[Form], most: int) -> None:
        self._question, self._forms, self._most = question, forms, most
        self._inputs: list[Array] = []
        self._shortcuts: list[Array] = []
        self._filled = 0

    def add(self, sampling: Sampling, batch: int, x: Array, shortcut: Array | None) -> None:
        """Add the rows of a batch, of which the site reads x [N, c, ...]."""
        site = self._question.site
        size = site.output_size(x.shape[2:])
        positions = sampling.positions(site.name, batch, size, self._question.per_sample)[: self._question.first]
        for part, piece in pieces(x, positions, patches_at_once(site)):
            patches = site_patches(site, part, piece)
            rows = [form.inputs(own) for form, own in zip(self._forms, patches, strict=True)]
            self._inputs = self._inputs or [np.empty((self._most, *own.shape[1:]), np.float32) for own in rows]
            for array, own in zip(self._inputs, rows, strict=True):
                array[self._filled : self._filled + len(own)] = own
            self._filled += len(rows[0])
        if shortcut is not None:
            self._shortcuts.append(_shortcut_rows(site, shortcut, len(x), positions))

    @property
    def rows(self) -> SiteRows:
        """All rows up to now."""
        shortcut = np.concatenate(self._shortcuts) if self._shortcuts else None
        return SiteRows(tuple(array[: self._filled] for array in self._inputs), shortcut)


def _seen_through(
    window: Mapping[str, tuple[slice, ...]], names: Sequence[str], values: Mapping[str, Array]
) -> dict[str, Array]:
    """Return copies of what a window shows of some tensors."""
    return {name: values[name][(slice(None), slice(None), *window.get(name, ()))].copy() for name in names}


def patches_at_once(site: ConvSite) -> int:
    """Return the number of patches of all groups that take ``BYTES_AT_ONCE``."""
    return int(BYTES_AT_ONCE // (4 * site.group * site.kernel[0].size))


def pieces(x: Array, positions: NDArray[np.int64], most: int) -> Iterator[tuple[Array, NDArray[np.int64]]]:
    """Divide samples [N, ...] and positions in their outputs into pieces of at most ``most`` patches, but at least one.

    The patches of all pieces, one piece after the other, are in the order of the patches of the whole.
    """
    if len(x) * len(positions) <= most:
        yield x, positions
        return
    for sample in range(len(x)):
        for start in range(0, len(positions), max(1, most)):
            yield x[sample : sample + 1], positions[start : start + max(1, most)]


def site_patches(site: ConvSite, x: Array, positions: NDArray[np.int64]) -> list[Array]:
    """Return the patches [n, c of a group, *sizes] that every group reads of x [N, c, ...] at some output positions."""
    if site.transposition:
        return np.split(transposed_patches(site, x, positions), site.group, axis=1)
    pads = site.padding(x.shape[2:])
    patches = gather_patches(x, positions, site.kernel.shape[2:], site.strides, site.dilations, pads)
    return np.split(patches, site.group, axis=1)


def _shortcut_rows(site: ConvSite, shortcut: Array, samples: int, positions: NDArray[np.int64]) -> Array:
    """Return the rows [n, d] of a shortcut at some output positions of a batch."""
    assert site.join is not None
    shortcut = site.join.as_response(shortcut)
    # The shapes of one sample do not show that all samples of a batch share a shortcut.
    return gather_points(np.broadcast_to(shortcut, (samples, *shortcut.shape[1:])), positions)
