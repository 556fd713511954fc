"""Shapes of a model's inputs as the user writes them: ``x:1x3x224x224``, ``x:1,3,224,224`` or ``x:[1,3,224,224]``.

The three are the spellings of trtexec, onnxsim and polygraphy. A model with one input needs no name: ``1x3x224x224``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx_lowrank.errors import UsageError
from onnx_lowrank.interface import TensorSpec

Shapes = Mapping[str, tuple[int, ...]]
"""By the input's name; "" is the only input of a model."""

_NEXT = re.compile(r"[;\s]+|,(?=[^,;\s\[\]]*:)")
"""Between two inputs; a comma within a shape is not followed by a name."""


def parse_input_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Read shapes, several of them with a comma, a semicolon or a space between; a name may hold colons.

    Raises
    ------
    UsageError
        Where the text is no such thing, or names an input twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in filter(None, _NEXT.split(re.sub(r",\s+", ",", text.strip()))):
        name, _, sides = entry.rpartition(":")
        bare = sides[1:-1] if sides.startswith("[") and sides.endswith("]") else sides
        if not re.fullmatch(r"[1-9]\d*([x,][1-9]\d*)*", bare, re.ASCII):
            raise UsageError(f"--input-shapes has {entry!r}: write for example x:1x3x224x224")
        if name in shapes:
            raise UsageError(f"--input-shapes names {name or 'the input'!r} twice")
        shapes[name] = tuple(map(int, re.split("[x,]", bare)))
    if not shapes:
        raise UsageError("--input-shapes is empty: write for example x:1x3x224x224")
    return shapes


def with_shapes(specs: Sequence[TensorSpec], shapes: Shapes, model: str) -> tuple[TensorSpec, ...]:
    """The inputs of a model, with the shapes that were given for some of them.

    Raises
    ------
    UsageError
        Where a shape is given without a name though the model has several inputs, or does not fit what the model says.
    """
    if "" in shapes and len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise UsageError(
            f"{model} has the inputs {names}: say in --input-shapes which one is meant, as in name:1x3x8x8"
        )
    return tuple(_fitted(spec, shapes.get(spec.name, shapes.get("")), model) for spec in specs)


def _fitted(spec: TensorSpec, shape: tuple[int, ...] | None, model: str) -> TensorSpec:
    if shape is None:
        return spec
    declared = spec.shape
    if declared is not None and (
        len(declared) != len(shape)
        or any(isinstance(want, int) and want != side for want, side in zip(declared, shape, strict=True))
    ):
        told = "x".join("?" if side is None else str(side) for side in declared)
        raise UsageError(f"--input-shapes gives {spec.name!r} {'x'.join(map(str, shape))}; {model} takes {told}")
    return replace(spec, shape=shape)
