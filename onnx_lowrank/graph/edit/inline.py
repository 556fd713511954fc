"""Model-local functions put in the place of their calls, so that the convolutions in them can be found.

Exporters write a module or an operator as a function of the model's own, and every call of it hands over other weights.
Inlining gives each call nodes of its own; ONNX Runtime does the same when it loads the model. A call that keeps the
meaning of its function is inlined, which leaves out functions

* whose operators mean something else in the versions that the model imports;
* that call themselves, directly or through others;
* that have the name of a standard operator, which may be what a runtime runs.

The inner tensors and nodes are named after the call: the node "conv" in the call "layer1" becomes "layer1/conv".
"""

from collections.abc import Iterator, Mapping, Sequence

import onnx

from onnx_lowrank.graph.protos import all_nodes, bodies, copy_fields, names_in
from onnx_lowrank.graph.tensors import unique

_Key = tuple[str, str, str]
"""The domain, the name and the overload of a function."""


def inline(proto: onnx.ModelProto, operators: Sequence[str]) -> onnx.ModelProto:
    """Inline the functions of a model if one of them holds a certain operator.

    Parameters
    ----------
    proto
        The model, which is not changed.
    operators
        Standard operators, such as Conv. If no function has a node of them, the model stays as it is.

    Returns
    -------
    onnx.ModelProto
        The same object where nothing is inlined. Otherwise a copy, in which a function stays only if it could not be
        inlined, and which imports what the inlined nodes need. Inputs, outputs and everything else are the original's.
    """
    versions = {_spelled(entry.domain): entry.version for entry in proto.opset_import}
    functions = _inlinable(proto, versions)
    if not any(_holds(function, operators) for function in functions.values()):
        return proto
    model = onnx.ModelProto()
    copy_fields(proto, model, {"graph", "functions"})
    copy_fields(proto.graph, model.graph, {"node"})
    model.graph.node.extend(_Inlining(functions, names_in(proto.graph)).expanded(proto.graph.node))
    model.functions.extend(function for function in proto.functions if _key(function) not in functions)
    imported = {_spelled(entry.domain) for entry in proto.opset_import}
    model.opset_import.extend(
        onnx.helper.make_opsetid(domain, version) for domain, version in versions.items() if domain not in imported
    )
    return model


class _Inlining:
    """Puts the nodes of functions in the place of their calls.

    Parameters
    ----------
    functions
        Those that are inlined.
    taken
        All names of the model, to which those of the new nodes and tensors are added.
    """

    def __init__(self, functions: Mapping[_Key, onnx.FunctionProto], taken: set[str]) -> None:
        self._functions, self._taken = functions, taken

    def expanded(self, nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        """Yield copies of nodes in which no call of the functions is left, neither among them nor in their bodies."""
        for node in nodes:
            function = self._functions.get(_key(node))
            if function is not None:
                yield from self.expanded(self._instance(node, function))
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for body in bodies(copy):
                inner = list(self.expanded(body.node))
                del body.node[:]
                body.node.extend(inner)
            yield copy

    def _instance(self, call: onnx.NodeProto, function: onnx.FunctionProto) -> list[onnx.NodeProto]:
        """Return the nodes of a function with the tensors and attributes that a call hands over."""
        prefix = call.name or call.op_type
        # A call may leave out inputs at the end, and the empty name stands for one that is left out in between.
        names = {"": "", **dict.fromkeys(function.input, ""), **dict(zip(function.input, call.input, strict=False))}
        handed_on = []
        for formal, actual in zip(function.output, call.output, strict=False):
            if actual and formal in names:  # an input, or a result that is handed out twice
                handed_on.append((formal, actual))
            elif actual:
                names[formal] = actual
        attributes = {attribute.name: attribute for attribute in function.attribute_proto}
        attributes |= {attribute.name: attribute for attribute in call.attribute}
        instance = _Instance(prefix, names, attributes, self._taken)
        nodes = [instance.node(node) for node in function.node]
        for formal, actual in handed_on:
            name = unique(f"{prefix}/{formal}/identity", self._taken)
            nodes.append(onnx.helper.make_node("Identity", [names[formal]], [actual], name))
        return nodes


class _Instance:
    """One call of a function.

    Parameters
    ----------
    prefix
        What new names begin with.
    names
        The names of the function's tensors in the model, completed here.
    attributes
        The values of the function's attributes.
    taken
        All names of the model.
    """

    def __init__(
        self, prefix: str, names: dict[str, str], attributes: Mapping[str, onnx.AttributeProto], taken: set[str]
    ) -> None:
        self._prefix, self._names, self._attributes, self._taken = prefix, names, attributes, taken

    def node(self, inner: onnx.NodeProto) -> onnx.NodeProto:
        """Return a node of the function as the call makes it."""
        node = onnx.NodeProto()
        copy_fields(inner, node, {"input", "output", "attribute"})
        if inner.name:
            node.name = unique(f"{self._prefix}/{inner.name}", self._taken)
        node.input.extend(map(self._name, inner.input))
        node.output.extend(map(self._name, inner.output))
        for attribute in inner.attribute:
            if not attribute.ref_attr_name:
                node.attribute.append(attribute)
            elif attribute.ref_attr_name in self._attributes:
                node.attribute.append(self._attributes[attribute.ref_attr_name])
                node.attribute[-1].name = attribute.name
        for body in bodies(node):
            self._rename(body)
        return node

    def _name(self, inner: str) -> str:
        if inner not in self._names:
            self._names[inner] = unique(f"{self._prefix}/{inner}", self._taken)
        return self._names[inner]

    def _rename(self, body: onnx.GraphProto) -> None:
        """Give new names to everything in a body, none of which may be the name of anything outside."""
        for tensor in (*body.initializer, *(sparse.values for sparse in body.sparse_initializer)):
            tensor.name = self._name(tensor.name)
        for value in (*body.input, *body.output, *body.value_info):
            value.name = self._name(value.name)
        nodes = [self.node(node) for node in body.node]
        del body.node[:]
        body.node.extend(nodes)


def _inlinable(proto: onnx.ModelProto, versions: dict[str, int]) -> dict[_Key, onnx.FunctionProto]:
    """Return the functions whose calls can be replaced, and add the versions that they need and the model lacks."""
    functions = {_key(function): function for function in proto.functions}
    local, ending = {domain for domain, _, _ in functions}, _not_recursive(functions)
    found: dict[_Key, onnx.FunctionProto] = {}
    for key, function in functions.items():
        domain, name, _ = key
        if onnx.defs.has(name, domain) or key not in ending:
            continue
        wanted = {_spelled(entry.domain): entry.version for entry in function.opset_import}
        wanted = {domain: version for domain, version in wanted.items() if domain not in local}
        if all(_means_the_same(node, wanted, versions) for node in all_nodes(function)):
            found[key] = function
            versions.update({domain: version for domain, version in wanted.items() if domain not in versions})
    return found


def _means_the_same(node: onnx.NodeProto, wanted: Mapping[str, int], given: Mapping[str, int]) -> bool:
    """Whether a node of a function is the same operator in the versions that the model imports."""
    domain = _spelled(node.domain)
    before, after = wanted.get(domain), given.get(domain)
    if before is None or after is None or before == after:
        return True
    try:
        since = [onnx.defs.get_schema(node.op_type, version, domain).since_version for version in (before, after)]
    except onnx.defs.SchemaError:  # a domain that onnx does not know
        return False
    return bool(since[0] == since[1])


def _not_recursive(functions: Mapping[_Key, onnx.FunctionProto]) -> set[_Key]:
    """Return the functions that neither call themselves nor one that does."""
    calls = {key: {_key(node) for node in all_nodes(function)} for key, function in functions.items()}
    ending: set[_Key] = set()
    while more := {key for key, called in calls.items() if called & functions.keys() <= ending} - ending:
        ending |= more
    return ending


def _holds(function: onnx.FunctionProto, operators: Sequence[str]) -> bool:
    return any(node.op_type in operators and not _spelled(node.domain) for node in all_nodes(function))


def _key(item: onnx.NodeProto | onnx.FunctionProto) -> _Key:
    """Return the key of a function, or of the function that a node would call."""
    name = item.op_type if isinstance(item, onnx.NodeProto) else item.name
    return _spelled(item.domain), name, getattr(item, "overload", "")  # older versions of onnx know no overloads


def _spelled(domain: str) -> str:
    """Return a domain in the spelling that has only one for the standard operators."""
    return "" if domain == "ai.onnx" else domain
