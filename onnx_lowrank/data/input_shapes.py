"""Shapes of inputs whose sizes the model leaves open, in the notations of onnxsim, polygraphy and trtexec.

    onnxsim      name:1,3,224,224
    polygraphy   name:[1,3,224,224]
    trtexec      name:1x3x224x224,other:1x10

If the model has only one input, its name may be left out. Several shapes are joined by commas or spaces.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from onnx_lowrank.errors import UsageError
from onnx_lowrank.interface import TensorSpec

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes by the input's name; the name of an only input may be empty."""

_N = r"\d{1,9}"
# A number before a colon is the name of the next input.
_SIZES = rf"\[\s*{_N}(?:\s*,\s*{_N})*\s*\]|{_N}(?:x{_N})+|{_N}(?:,{_N}(?=[,\s]|$))*"
_ENTRY = re.compile(rf"(?:(?P<name>'[^']+'|[^,\s\[\]']+):)?(?P<sizes>{_SIZES})(?:,\s*(?=\S)|\s+|$)", re.ASCII)


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read the values of ``--input-shapes``.

    Parameters
    ----------
    texts
        Texts with one or more shapes each.

    Returns
    -------
    dict[str, tuple[int, ...]]
        The shapes by the input's name, which is empty where it was left out.

    Raises
    ------
    UsageError
        If a text is not a list of shapes, or an input has two shapes.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        rest = text.strip()
        while rest or not shapes:
            entry = _ENTRY.match(rest)
            if entry is None:
                raise UsageError(f"--input-shapes: {text!r} is not a shape: write, for example, x:1,3,224,224")
            name = (entry["name"] or "").strip("'")
            if name in shapes:
                raise UsageError(f"--input-shapes: {f'input {name!r}' if name else text!r} has two shapes: give one")
            shapes[name] = tuple(int(size) for size in re.findall(r"\d+", entry["sizes"]))
            rest = rest[entry.end() :]
    return shapes


def with_shapes(specs: tuple[TensorSpec, ...], shapes: Shapes) -> tuple[TensorSpec, ...]:
    """Return the inputs with the given sizes in place of open ones.

    A shape that gives a size to a symbol, such as "N", gives it to that symbol in all inputs.

    Parameters
    ----------
    specs
        The model's inputs.
    shapes
        A shape for each input whose sizes are given.

    Returns
    -------
    tuple[TensorSpec, ...]
        The inputs, in the same order.

    Raises
    ------
    UsageError
        If there is no input of that name, or if a shape has the wrong number of sizes, contradicts a size that the
        model fixes, or gives a symbol another size than another shape does.
    """
    names = [spec.name for spec in specs]
    if "" in shapes and len(specs) != 1:
        raise UsageError(
            f"--input-shapes: say which of the inputs {', '.join(names)} the shape is for, as in name:1,3,9,9"
        )
    by_name = {name or names[0]: shape for name, shape in shapes.items()}
    if len(by_name) < len(shapes):
        raise UsageError(f"--input-shapes: input {names[0]!r} has two shapes: give one")
    for name in by_name:
        if name not in names:
            raise UsageError(f"--input-shapes: there is no input {name!r}; the model has {', '.join(names)}")
    symbols: dict[str, int] = {}
    for spec in specs:
        if spec.name in by_name:
            _match(spec, by_name[spec.name], symbols)
    return tuple(_with_sizes(spec, by_name.get(spec.name), symbols) for spec in specs)


def _match(spec: TensorSpec, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    """Check a shape against its input, and enter the sizes that it gives to ``symbols``."""
    if spec.shape is None:
        return
    given = ",".join(map(str, shape))
    stated = ",".join("?" if side is None else str(side) for side in spec.shape)
    if len(shape) != len(spec.shape):
        raise UsageError(
            f"--input-shapes: {given} has {len(shape)} sizes, but input {spec.name!r} has {len(spec.shape)} ({stated})"
        )
    for side, size in zip(spec.shape, shape, strict=True):
        if isinstance(side, int) and side != size:
            raise UsageError(
                f"--input-shapes: {given} contradicts the shape {stated} that the model fixes for {spec.name!r}"
            )
        if isinstance(side, str) and symbols.setdefault(side, size) != size:
            raise UsageError(
                f"--input-shapes: the size {side!r} would be both {symbols[side]} and {size}: make them equal"
            )


def _with_sizes(spec: TensorSpec, shape: tuple[int, ...] | None, symbols: Mapping[str, int]) -> TensorSpec:
    if shape is not None:
        return replace(spec, shape=shape)
    if spec.shape is None:
        return spec
    return replace(spec, shape=tuple(symbols.get(side, side) if isinstance(side, str) else side for side in spec.shape))
