"""Chance taken out of a model: nodes that compute noise take the place of those that draw it.

All noise then follows from a single number that is fed with every batch, the key. A batch sees the same noise in every
piece of the network, in the original and in the result. Batches with different keys, the nodes of the model and the
iterations of its loops see different noise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_lowrank.graph.chance import RANDOM, Chance
from onnx_lowrank.graph.edit.noise import RANGE, RUNTIME_DOMAIN, NoiseNodes
from onnx_lowrank.graph.kinds import STANDARD
from onnx_lowrank.graph.protos import all_nodes, bodies, copy_fields, names_in
from onnx_lowrank.graph.tensors import unique

FIRST_OPSET = 7
"""The opset from which on the elementwise operators broadcast, as the computation of noise needs it."""

CAST_LIKE = 15
"""The opset that brought CastLike. Before it, types have to be inferred."""

SCAN_WITH_AXES = 9
"""The opset from which on the inputs of a Scan are as they are treated here."""


def determined(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Chance | None]:
    """Return a model in which every random node of the main graph and of the bodies in it computes its noise.

    Parameters
    ----------
    proto
        With its nodes in topological order. It is not changed.

    Returns
    -------
    onnx.ModelProto, Chance or None
        A copy with one more input, and what gives it its chance back; the same object and None where the model draws no
        random numbers, or has an opset before ``FIRST_OPSET``.
    """
    opset = next((entry.version for entry in proto.opset_import if entry.domain in STANDARD), 0)
    constants = _scalars(proto.graph)
    if opset < FIRST_OPSET or not any(_draws(node, constants) for node in all_nodes(proto.graph)):
        return proto, None
    model = onnx.ModelProto()
    copy_fields(proto, model, {"graph"})
    copy_fields(proto.graph, model.graph, {"node"})
    if opset < RANGE and all(entry.domain != RUNTIME_DOMAIN for entry in proto.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(RUNTIME_DOMAIN, 1))
    taken = names_in(proto.graph)
    key, strength = unique("noise/key", taken), unique("noise/strength", taken)
    for name, number in ((key, TensorProto.INT64), (strength, TensorProto.FLOAT)):
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, number, [1]))
    work = _Determining(opset, {} if opset >= CAST_LIKE else _types(proto), taken, strength)
    originals, added = dict[str, onnx.NodeProto](), set[str]()
    for node in proto.graph.node:
        nodes = work.instead(node, key, constants)
        model.graph.node.extend(nodes)
        if len(nodes) > 1 or nodes[0] is not node:
            originals |= {name: node for name in node.output if name}
            added.update(name for new in nodes for name in new.output if name not in node.output)
    return model, Chance(key, strength, originals, frozenset(added))


def random_nodes(proto: onnx.ModelProto) -> list[str]:
    """Return the operators that draw random numbers in a model, also in its bodies and functions."""
    found: dict[str, None] = {}
    for part in (proto.graph, *proto.functions):
        constants = _scalars(part)
        found |= dict.fromkeys(node.op_type for node in all_nodes(part) if _draws(node, constants))
    return list(found)


@dataclass(frozen=True)
class _Determining:
    """The replacement of random nodes.

    Attributes
    ----------
    opset
        The version of the standard operators.
    types
        Element types by the names of tensors, as far as they are needed and known.
    taken
        All names of the model, to which those of the new nodes and tensors are added.
    strength
        The name of the input that is 1 where there is noise and 0 where there is none.
    in_scan
        Whether the nodes stand in the body of a Scan, of whose results the ranks must be known.
    """

    opset: int
    types: Mapping[str, int]
    taken: set[str]
    strength: str
    in_scan: bool = False

    def instead(self, node: onnx.NodeProto, key: str, constants: Mapping[str, bool]) -> list[onnx.NodeProto]:
        """Return what stands in the place of a node: the node itself where it has nothing to do with chance."""
        noise = NoiseNodes(next(filter(None, node.output), node.name), self.opset, self.taken)
        if _draws(node, constants):
            self._compute(noise, node, key, constants)
            return noise.nodes
        if not any(_draws(inner, constants) for body in bodies(node) for inner in all_nodes(body)):
            return [node]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if copy.op_type == "Scan" and self.opset >= SCAN_WITH_AXES:
            self._number_iterations(noise, copy)
        inside = replace(self, in_scan=self.in_scan or copy.op_type == "Scan")
        for body in bodies(copy):
            inside._determine(body, copy.op_type, key, constants)
        return [*noise.nodes, copy]

    def _determine(self, body: onnx.GraphProto, owner: str, key: str, constants: Mapping[str, bool]) -> None:
        """Replace the random nodes of a body in place."""
        noise = NoiseNodes(next((value.name for value in body.output), body.name), self.opset, self.taken)
        if owner == "Loop":
            key = noise.shifted_key(key, body.input[0].name)
        elif owner == "Scan" and self.opset >= SCAN_WITH_AXES:
            key = noise.shifted_key(key, body.input[-1].name)
        constants = {**constants, **_scalars(body)}
        nodes = [new for node in body.node for new in self.instead(node, key, constants)]
        del body.node[:]
        body.node.extend([*noise.nodes, *nodes])

    def _number_iterations(self, noise: NoiseNodes, scan: onnx.NodeProto) -> None:
        """Give a Scan one more input, the numbers of its iterations."""
        attributes = {attribute.name: attribute for attribute in scan.attribute}
        count = attributes["num_scan_inputs"]
        axes = attributes.get("scan_input_axes")
        first = scan.input[len(scan.input) - count.i]
        axis = noise.constant(axes.ints[0] if axes and axes.ints else 0, np.int64)
        length = noise.add("Gather", noise.add("Shape", first), axis)
        zero, one = noise.constant(0, np.int64), noise.constant(1, np.int64)
        domain = "" if self.opset >= RANGE else RUNTIME_DOMAIN
        scan.input.append(noise.add("Range", zero, length, one, domain=domain))
        count.i += 1
        for name in ("scan_input_axes", "scan_input_directions"):
            if name in attributes and attributes[name].ints:
                attributes[name].ints.append(0)
        number = onnx.helper.make_tensor_value_info(unique("noise/iteration", self.taken), TensorProto.INT64, [])
        attributes["body"].g.input.append(number)

    def _compute(self, noise: NoiseNodes, node: onnx.NodeProto, key: str, constants: Mapping[str, bool]) -> None:
        """Add the nodes that compute what a random node draws."""
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Dropout":
            self._drop_out(noise, node, key, constants)
            return
        if node.op_type == "Multinomial":
            self._choose(noise, node, key)
            return
        dtype = attributes.get("dtype", 0) or (0 if node.input else TensorProto.FLOAT)
        if node.op_type.startswith("RandomNormal"):
            scale, mean = attributes.get("scale", 1.0), attributes.get("mean", 0.0)
            values = self._scaled(noise, self._elements(noise, noise.normal, key, node), scale, mean)
        elif node.op_type.startswith("RandomUniform"):
            low, high = attributes.get("low", 0.0), attributes.get("high", 1.0)
            values = self._scaled(noise, self._about_zero(noise, key, node), high - low, (high + low) / 2)
        else:
            probability = noise.add("Cast", node.input[0], to=TensorProto.FLOAT)
            about_zero = noise.add("Mul", self._about_zero(noise, key, node), self.strength)
            threshold = noise.add("Sub", probability, noise.constant(0.5, np.float32))
            values = noise.add("Less", about_zero, threshold)
        self._convert(noise, values, dtype, node.input[0] if node.input else "", node.output[0])

    def _drop_out(self, noise: NoiseNodes, node: onnx.NodeProto, key: str, constants: Mapping[str, bool]) -> None:
        """Add the nodes of a Dropout, which multiplies what it keeps by 1/(1 − ratio)."""
        x, ratio, training = (*node.input, "", "")[:3]
        output, mask = (*node.output, "")[:2]
        one = noise.constant(1, np.float32)
        rate = noise.add("Cast", ratio, to=TensorProto.FLOAT) if ratio else noise.constant(0.5, np.float32)
        uniform = self._elements(noise, noise.uniform, key, node)
        dropped, scale = noise.add("Less", uniform, rate), noise.add("Div", one, noise.add("Sub", one, rate))
        active = noise.add("Cast", self.strength, to=TensorProto.BOOL)
        if training not in constants:  # whether it trains is computed, or fed
            active = noise.add("And", active, training)
        dropped, scale = noise.add("And", dropped, active), noise.add("Where", active, scale, one)
        kept = noise.add("Not", dropped, output=mask)
        factor = noise.add("Mul", noise.add("Cast", kept, to=TensorProto.FLOAT), scale)
        if output:
            noise.add("Mul", x, self._convert(noise, factor, 0, x), output=output)

    def _choose(self, noise: NoiseNodes, node: onnx.NodeProto, key: str) -> None:
        """Add the nodes of a Multinomial: its input holds logits [n, classes], its output classes [n, draws]."""
        attributes = {a.name: a.i for a in node.attribute}
        draws, logits = noise.integers(attributes.get("sample_size", 1)), node.input[0]
        shape = noise.add("Shape", logits)
        samples, classes = (noise.add("Gather", shape, noise.integers(axis)) for axis in (0, 1))
        count = noise.add(
            "Mul",
            noise.add("ReduceProd", shape, keepdims=0),
            noise.constant(attributes.get("sample_size", 1), np.int64),
        )
        gumbel = noise.gumbel(key, count, noise.add("Concat", samples, draws, classes, axis=0))
        single = noise.add("Concat", samples, noise.integers(1), classes, axis=0)
        scores = noise.add("Reshape", noise.add("Cast", logits, to=TensorProto.FLOAT), single)
        gumbel = noise.add("Mul", gumbel, self.strength)
        chosen = noise.add("ArgMax", noise.add("Add", scores, gumbel), axis=2, keepdims=0)
        if self.in_scan:
            like = noise.add("Gather", logits, noise.integers([0] * attributes.get("sample_size", 1)), axis=1)
            chosen = noise.ranked(noise.add("Cast", chosen, to=TensorProto.FLOAT), like)
        noise.add("Cast", chosen, to=attributes.get("dtype", TensorProto.INT32), output=node.output[0])

    def _elements(self, noise: NoiseNodes, law: Callable[[str, str, str], str], key: str, node: onnx.NodeProto) -> str:
        """Return the name of noise in the shape of a node's first input, or in the shape that it states."""
        if node.input:
            like = node.input[0]
            size = noise.add("Shape", like)
            values = law(key, noise.add("ReduceProd", size, keepdims=0), size)
            return noise.ranked(values, like) if self.in_scan else values
        shape = next(list(attribute.ints) for attribute in node.attribute if attribute.name == "shape")
        return law(key, noise.constant(np.prod(shape, dtype=np.int64), np.int64), noise.constant(shape, np.int64))

    def _about_zero(self, noise: NoiseNodes, key: str, node: onnx.NodeProto) -> str:
        """Return the name of uniform numbers between -½ and ½."""
        return noise.add("Sub", self._elements(noise, noise.uniform, key, node), noise.constant(0.5, np.float32))

    def _scaled(self, noise: NoiseNodes, values: str, scale: float, mean: float) -> str:
        """Return the name of values · scale · strength + mean, float32."""
        factor = noise.add("Mul", self.strength, noise.constant(scale, np.float32))
        return noise.add("Add", noise.add("Mul", values, factor), noise.constant(mean, np.float32))

    def _convert(self, noise: NoiseNodes, values: str, dtype: int, like: str, output: str = "") -> str:
        """Convert values to a type, or to that of another tensor where the type is 0; return the name of the result."""
        if not dtype and self.opset >= CAST_LIKE:
            return noise.add("CastLike", values, like, output=output)
        return noise.add("Cast", values, to=dtype or self.types.get(like, TensorProto.FLOAT), output=output)


def _draws(node: onnx.NodeProto, constants: Mapping[str, bool]) -> bool:
    """Whether a node itself draws random numbers, or may do so."""
    if node.domain not in STANDARD or node.op_type not in RANDOM:
        return False
    if node.op_type != "Dropout":
        return True
    # Without this input, and in the opsets that have none, a Dropout is an Identity.
    training = node.input[2] if len(node.input) > 2 else ""
    return bool(training) and constants.get(training, True)


def _scalars(graph: onnx.GraphProto | onnx.FunctionProto) -> dict[str, bool]:
    """Return the constants of a graph or function that are a single Boolean."""
    tensors = {tensor.name: tensor for tensor in getattr(graph, "initializer", ())}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in STANDARD:
            stored = (attribute.t for attribute in node.attribute if attribute.HasField("t"))
            tensors |= {name: tensor for tensor in stored for name in node.output}
    flags = {name: tensor for name, tensor in tensors.items() if tensor.data_type == TensorProto.BOOL}
    values = {name: numpy_helper.to_array(tensor) for name, tensor in flags.items()}
    return {name: bool(value.item()) for name, value in values.items() if value.size == 1}


def _types(proto: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of tensors, as far as ONNX infers them."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto)
    except Exception:  # the model is too large, or the inference disagrees with it
        inferred = proto
    return {name: number for graph in _graphs(inferred.graph) for name, number in _stated(graph)}


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from _graphs(body)


def _stated(graph: onnx.GraphProto) -> Iterable[tuple[str, int]]:
    values = (*graph.input, *graph.value_info, *graph.output)
    yield from ((value.name, value.type.tensor_type.elem_type) for value in values)
    yield from ((tensor.name, tensor.data_type) for tensor in graph.initializer)
