"""Channels brought to one range, or given another basis, where nothing but weights is in the way."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.factorise.rounding.basis import Basis, best_basis, to_one_range
from onnx_lowrank.graph.edit.rewrite import Replacement, rewrite_together
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.quantise.streams import Stream
from onnx_lowrank.stages.observed import Observed, Values
from onnx_lowrank.stages.roundable import Roundable

Array = NDArray[Any]


def as_one(site: ConvSite) -> Factorization:
    """Return a layer as a chain of a single link."""
    return Factorization((Link(site.kernel, (True,) * (site.kernel.ndim - 2)),), site.bias, site.group)


def with_one_range(observed: Observed, streams: Sequence[Stream]) -> Observed:
    """Return a network that computes the same, with the channels of its streams brought to one range.

    Its own network is edited in place.
    """
    layers = {layer.site.output: layer for layer in observed.layers}
    values = dict(observed.values)
    edited: set[str] = set()
    for stream in streams:
        seen = [name for name in stream.tensors if name in values and values[name].sample.ndim == 2]
        counts = {len(layers[maker].site.kernel) for maker in stream.makers}
        counts |= {values[name].sample.shape[1] for name in seen} | {_channels(layers[name]) for name in stream.readers}
        if not seen or len(counts) > 1:
            continue
        if _may_mix(stream, layers, seen):
            _mix(layers, values, stream.makers[0], stream.readers[0])
        else:
            samples = np.concatenate([values[name].sample for name in seen])
            _scale(layers, values, stream, to_one_range(samples, signed=stream.signed))
        edited |= {*stream.makers, *stream.readers}
    rewrite_together(observed.network, [Replacement(layers[o].site, as_one(layers[o].site)) for o in sorted(edited)])
    return replace(observed, layers=tuple(layers[layer.site.output] for layer in observed.layers), values=values)


def _channels(layer: Roundable) -> int:
    """Return the number of channels that a layer reads."""
    return int(layer.site.kernel.shape[1]) * layer.site.group


def _may_mix(stream: Stream, layers: dict[str, Roundable], seen: Sequence[str]) -> bool:
    """Whether one layer makes what one other layer reads, each in one group."""
    if len(stream.makers) != 1 or len(stream.readers) != 1 or stream.tensors != stream.makers or len(seen) != 1:
        return False
    return layers[stream.makers[0]].site.group == layers[stream.readers[0]].site.group == 1


def _scale(layers: dict[str, Roundable], values: dict[str, Values], stream: Stream, factors: Array) -> None:
    """Multiply the channels of a stream by factors, and divide the weights that read them."""
    for name in stream.makers:
        site = layers[name].site
        shape = (-1, *(1,) * (site.kernel.ndim - 1))
        scaled = replace(site, kernel=site.kernel * factors.reshape(shape), bias=site.bias * factors)
        layers[name] = _with_target(replace(layers[name], site=scaled), lambda rows: rows * factors)
    for name in stream.readers:
        site = layers[name].site
        shape = (1, -1, *(1,) * (site.kernel.ndim - 2))
        parts = zip(site.kernels, np.split(1 / factors, site.group), strict=True)
        kernel = np.concatenate([own * part.reshape(shape) for own, part in parts])
        layers[name] = replace(layers[name], site=replace(site, kernel=kernel))
    for name in stream.tensors:
        if name in values:
            values[name] = _seen(values[name].sample * factors)


def _mix(layers: dict[str, Roundable], values: dict[str, Values], maker: str, reader: str) -> None:
    """Give the channels between two layers another basis."""
    making, reading = layers[maker].site, layers[reader].site
    kernel = reading.kernel.reshape(*reading.kernel.shape[:2], -1)
    weights = np.moveaxis(kernel, 1, 0).reshape(kernel.shape[1], -1)
    basis: Basis = best_basis(values[maker].sample, weights, moves=not _pads(reading))
    made = replace(
        making,
        kernel=np.tensordot(basis.forward, making.kernel, axes=1),
        bias=basis.forward @ (making.bias - basis.offset),
    )
    read = np.moveaxis(np.tensordot(reading.kernel, basis.backward, axes=(1, 0)), -1, 1)
    bias = reading.bias + kernel.sum(axis=2) @ basis.offset
    layers[maker] = _with_target(replace(layers[maker], site=made), basis.of)
    layers[reader] = replace(layers[reader], site=replace(reading, kernel=read, bias=bias))
    values[maker] = _seen(basis.of(values[maker].sample))


def _with_target(layer: Roundable, change: Any) -> Roundable:
    """Return a layer whose target rows have been changed as its responses have."""
    if layer.target is None:
        return layer
    rows = np.asarray(change(layer.target.rows), np.float32)
    return replace(layer, target=replace(layer.target, rows=rows))


def _seen(sample: Array) -> Values:
    return Values(sample.astype(np.float32), float(sample.min()), float(sample.max()))


def _pads(site: ConvSite) -> bool:
    """Whether a layer may see zeros beside its input."""
    return site.pads is None or any(site.pads)
