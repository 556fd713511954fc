"""A shard in this process: it holds samples and runs the network on them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.frontier import Frontier
from onnx_lowrank.calibration.positions import gather_patches, gather_points
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.shard import LayerSample, ProfileQuestion, SiteRows
from onnx_lowrank.factorise.factors import Factorization
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.graph.edit.reweight import replace_weights
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.runtime.session import Opener, Session

Array = NDArray[Any]

COLUMN_PATCHES = 4_000
"""The number of patches from which the statistics of a site's patches are estimated; a patch holds several columns."""


class LocalShard:
    """A shard in this process.

    Parameters
    ----------
    network
        The shard's own; it changes as the shard advances.
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
        narrow, wide = self._sessions(question)
        for b in self._batches:
            batch = self._sampling.batches[b]
            feeds = self._sampling.source.feeds(batch)
            tensors = feeds | (wide if b < question.patch_batches else narrow)(feeds)
            for site in question.sites:
                yield self._sample(question, b, site, tensors)
            for layer in question.dense:
                # A layer that does not make one row of every sample is left out.
                if tensors[layer.target].shape == (len(batch), len(layer.bias)):
                    yield LayerSample(b, layer.name, tensors[layer.target])

    def _sessions(self, question: ProfileQuestion) -> tuple[Session, Session]:
        """The network that makes all wanted responses, and the one that makes what is read beside them."""
        wanted = [site.target for site in question.sites] + [site.output for site in question.sites if site.join]
        wanted += [layer.target for layer in question.dense]
        model_inputs = {tensor.name for tensor in self._network.inputs}
        reading = (site.input for site in question.sites if site.name in question.patches)
        inputs = list(dict.fromkeys(name for name in reading if name not in model_inputs))
        narrow = self._open(whole(self._network, wanted), "the model")
        if not inputs or not self._batches or self._batches[0] >= question.patch_batches:
            return narrow, narrow
        return narrow, self._open(whole(self._network, [*wanted, *inputs]), "the model")

    def _sample(self, question: ProfileQuestion, b: int, site: ConvSite, tensors: Mapping[str, Array]) -> LayerSample:
        y, count = tensors[site.target], question.per_sample[site.name]
        if site.join:
            y = site.join.as_response(y)
        size = y.shape[2:]
        places = self._sampling.positions(site.name, b, size, count)
        rows = gather_points(y, places)
        responses = gather_points(tensors[site.output], places) if site.join else None
        if b >= question.patch_batches or site.name not in question.patches:
            return LayerSample(b, site.name, rows, responses)
        batch = self._sampling.batches[b]
        some = max(1, min(count, -(-COLUMN_PATCHES // (question.patch_batches * len(batch)))))
        places = self._sampling.positions(site.name, b, size, some)
        return LayerSample(b, site.name, rows, responses, site_patches(site, tensors[site.input], places))

    def rows(self, site: ConvSite, forms: Sequence[Form], per_sample: int, memory: int) -> SiteRows:
        """See ``Shard``."""
        most = per_sample * sum(len(self._sampling.batches[b]) for b in self._batches)
        inputs: list[Array] = []
        shortcuts: list[Array] = []
        filled = 0
        with contextlib.closing(self._frontier.visit(site, memory)) as visits:
            for visit in visits:
                size = site.output_size(visit.x.shape[2:])
                places = self._sampling.positions(site.name, visit.batch, size, per_sample)
                patches = site_patches(site, visit.x, places)
                parts = [form.inputs(part) for form, part in zip(forms, patches, strict=True)]
                inputs = inputs or [np.empty((most, *part.shape[1:]), np.float32) for part in parts]
                for array, part in zip(inputs, parts, strict=True):
                    array[filled : filled + len(part)] = part
                filled += len(parts[0])
                if visit.shortcut is not None:
                    shortcuts.append(self._shortcut(site, visit.shortcut, len(visit.x), places))
        return SiteRows(tuple(array[:filled] for array in inputs), np.concatenate(shortcuts) if shortcuts else None)

    def _shortcut(self, site: ConvSite, shortcut: Array, samples: int, places: NDArray[np.int64]) -> Array:
        assert site.join is not None
        shortcut = site.join.as_response(shortcut)
        # The shapes of one sample do not show that all samples of a batch share a shortcut.
        return gather_points(np.broadcast_to(shortcut, (samples, *shortcut.shape[1:])), places)

    def reads(self, layer: DenseLayer, memory: int) -> Array:
        """See ``Shard``."""
        with contextlib.closing(self._frontier.visit(layer, memory)) as visits:
            return np.concatenate([visit.x.astype(np.float32, copy=False) for visit in visits])

    def advance(self, site: ConvSite, factorization: Factorization, macs: int) -> None:
        """See ``Shard``."""
        rewrite(self._network, site, factorization)
        self._frontier.replaced(site.output, macs)

    def reweight(self, layer: DenseLayer, weight: Array | None, bias: Array | None) -> bool:
        """See ``Shard``."""
        return replace_weights(self._network, layer, weight, bias)


def site_patches(site: ConvSite, x: Array, places: NDArray[np.int64]) -> list[Array]:
    """The patches that every group reads, [n, c of a group, *sizes], of x [N, c, ...] at some places of the output."""
    pads = site.padding(x.shape[2:])
    patches = gather_patches(x, places, site.kernel.shape[2:], site.strides, site.dilations, pads)
    return np.split(patches, site.group, axis=1)
