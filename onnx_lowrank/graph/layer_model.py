"""One convolution as a model of its own, for the stopwatch: as it is, and in every factorised form.

Inside a network a convolution reads what the one before it has just written, in the layout that the runtime likes. So
the small model is

    x [N, 1, …] → 1×1 convolution to c channels → the layer → its ReLU → global average → y [N, d, 1, …]

The layer's surroundings cost little, and they cost the same in every form: the time of the same model without the layer
can be subtracted. Activations other than the ReLU are left out, since they also cost the same in every form.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_lowrank.factorise.factors import Factorization
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.graph.find.transposition import swap_channels

IR, OPSET = 8, 17
"""Versions that every runtime of the last years reads; float16 and bfloat16 are among their types."""

LAYER = "layer"
"""The name of the measured convolution."""


@dataclass(frozen=True)
class ConvGeometry:
    """Everything that a convolution's time depends on, besides the machine: no weights and no names.

    Attributes
    ----------
    dtype
        The type of the weights, as NumPy names it.
    input
        The shape of the input, [samples, channels, *size].
    filters
        d, the number of filters in all groups.
    kernel, strides, dilations
        One number for each spatial axis.
    pads
        The padding in front along every spatial axis, and then the padding behind.
    group
        The number of groups that channels and filters are divided into.
    relu
        Whether a ReLU follows, which the runtime makes part of the convolution.
    output_padding
        The pixels behind the output along every spatial axis, where the convolution is transposed; None where it is
        not.
    """

    dtype: str
    input: tuple[int, ...]
    filters: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    group: int
    relu: bool
    output_padding: tuple[int, ...] | None = None

    @classmethod
    def of(cls, site: ConvSite, shape: tuple[int, ...], samples: int) -> "ConvGeometry":
        """Return the geometry of a site for a batch of ``samples``; ``shape`` is its input's for any number of them."""
        return cls(
            site.dtype.name,
            (samples, *shape[1:]),
            int(site.kernel.shape[0]),
            tuple(int(size) for size in site.kernel.shape[2:]),
            tuple(int(step) for step in site.strides),
            tuple(int(step) for step in site.dilations),
            tuple(int(size) for size in site.padding(shape[2:])),
            site.group,
            site.join is None and site.activation is not None and site.activation.name == "Relu",
            _output_padding(site, shape[2:]) if site.transposition else None,
        )

    @property
    def weights(self) -> tuple[int, ...]:
        """The shape of the kernel, [d, c of a group, *sizes]."""
        return (self.filters, self.input[1] // self.group, *self.kernel)

    @property
    def bytes(self) -> int:
        """The bytes, about, that a run holds at once: the layer's input and output, and as much between them."""
        _, c, *size = self.input
        spread = 1 if self.output_padding is None else int(np.prod(self.strides))
        return 4 * self.input[0] * int(np.prod(size)) * (2 * c + self.filters * spread)

    def __str__(self) -> str:
        """Return a text such as ``64→128 3×3 on 112×112``."""
        kernel, size = ("×".join(map(str, part)) for part in (self.kernel, self.input[2:]))
        groups = f" in {self.group} groups" if self.group > 1 else ""
        transposed = "" if self.output_padding is None else " transposed"
        return f"{self.input[1]}→{self.filters}{groups} {kernel}{transposed} on {size}"


def _output_padding(site: ConvSite, size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the output padding with which the layer's own padding gives the size that its output has."""
    pads, axes = site.padding(size), len(size)
    sides = zip(size, site.strides, site.extents, pads[:axes], pads[axes:], site.output_size(size), strict=True)
    return tuple(int(out - ((n - 1) * step + extent - t - b)) for n, step, extent, t, b, out in sides)


def layer_model(geometry: ConvGeometry, factorization: Factorization | None) -> bytes:
    """Return the small model, serialised, with the layer as it is or as the chain of a factorisation."""
    proto = _model(geometry, with_layer=True)
    if factorization is None:
        return bytes(proto.SerializeToString())
    loaded = load(proto)
    network = normalise(loaded.proto)
    (site,) = find_sites(network, include=f"^{LAYER}$").sites
    rewrite(network, site, factorization)
    return bytes(export(network, loaded).SerializeToString())


def surrounding_model(geometry: ConvGeometry) -> bytes:
    """Return the small model without the layer, serialised."""
    return bytes(_model(geometry, with_layer=False).SerializeToString())


def layer_input(geometry: ConvGeometry) -> dict[str, NDArray[Any]]:
    """Return an input of the small models: x, [N, 1, *size]."""
    n, _, *size = geometry.input
    values = np.random.default_rng(0).standard_normal((n, 1, *size))
    return {"x": values.astype(np.float32)}


def _model(geometry: ConvGeometry, *, with_layer: bool) -> onnx.ModelProto:
    n, c, *size = geometry.input
    element = helper.np_dtype_to_tensor_dtype(np.dtype(geometry.dtype))
    rng = np.random.default_rng(0)
    stored = {"spread.weight": rng.standard_normal((c, 1, *(1 for _ in size)))}
    nodes = [helper.make_node("Cast", ["x"], ["x.typed"], to=element)] if element != onnx.TensorProto.FLOAT else []
    nodes.append(helper.make_node("Conv", [nodes[0].output[0] if nodes else "x", "spread.weight"], ["input"], "spread"))
    last, channels = "input", c
    if with_layer:
        fan_in = int(np.prod(geometry.weights[1:]))
        stored["weight"] = (rng.random(geometry.weights) - 0.5) * (12 / fan_in) ** 0.5
        if geometry.output_padding is not None:
            stored["weight"] = swap_channels(stored["weight"], geometry.group)
        stored["bias"] = np.ones(geometry.filters)
        nodes += _layer_nodes(geometry)
        last, channels = nodes[-1].output[0], geometry.filters
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [n, 1, *size])],
        [helper.make_tensor_value_info("y", element, [n, channels, *(1 for _ in size)])],
        [numpy_helper.from_array(values.astype(geometry.dtype), name) for name, values in stored.items()],
    )
    return helper.make_model(graph, ir_version=IR, opset_imports=[helper.make_opsetid("", OPSET)])


def _layer_nodes(geometry: ConvGeometry) -> list[onnx.NodeProto]:
    transposed = geometry.output_padding is not None
    layer = helper.make_node(
        "ConvTranspose" if transposed else "Conv",
        ["input", "weight", "bias"],
        ["response"],
        LAYER,
        kernel_shape=geometry.kernel,
        strides=geometry.strides,
        dilations=geometry.dilations,
        pads=geometry.pads,
        group=geometry.group,
        **({"output_padding": geometry.output_padding} if transposed else {}),
    )
    return [layer, helper.make_node("Relu", ["response"], ["activated"])] if geometry.relu else [layer]
