"""Shapes for inputs whose sizes the model leaves open, as users of onnxsim, polygraphy and trtexec write them.

    onnxsim      name:1,3,224,224
    polygraphy   name:[1,3,224,224]
    trtexec      name:1x3x224x224,other:1x10

With one input its name may be left out. Several shapes are joined by commas or spaces.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from onnx_lowrank.errors import UsageError
from onnx_lowrank.interface import TensorSpec

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""By the input's name; "" is the only input."""

_N = r"\d{1,9}"
# A number that a colon follows is the name of the next input.
_SIZES = rf"\[\s*{_N}(?:\s*,\s*{_N})*\s*\]|{_N}(?:x{_N})+|{_N}(?:,{_N}(?=[,\s]|$))*"
_ENTRY = re.compile(rf"(?:(?P<name>'[^']+'|[^,\s\[\]']+):)?(?P<sizes>{_SIZES})(?:,\s*(?=\S)|\s+|$)", re.ASCII)


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read shapes.

    Parameters
    ----------
    texts
        Each with one shape or more.

    Raises
    ------
    UsageError
        If one cannot be read, or if an input is named twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        rest = text.strip()
        while rest or not shapes:
            entry = _ENTRY.match(rest)
            if entry is None:
                raise UsageError(f"--input-shapes: {text!r} is no shape: write for example x:1,3,224,224")
            name = (entry["name"] or "").strip("'")
            if name in shapes:
                raise UsageError(f"--input-shapes: {f'input {name!r}' if name else text!r} has two shapes: give one")
            shapes[name] = tuple(int(size) for size in re.findall(r"\d+", entry["sizes"]))
            rest = rest[entry.end() :]
    return shapes


def with_shapes(specs: tuple[TensorSpec, ...], shapes: Shapes) -> tuple[TensorSpec, ...]:
    """The inputs with the given sizes in place of open ones.

    A symbolic size, such as "N", that one shape decides is decided wherever the inputs name it.

    Raises
    ------
    UsageError
        If there is no such input, or if a shape has another number of sizes or contradicts a size that the model fixes,
        or that another shape gives the same symbol.
    """
    names = [spec.name for spec in specs]
    if "" in shapes and len(specs) != 1:
        raise UsageError(
            f"--input-shapes: say which of the inputs {', '.join(names)} has the shape, as in name:1,3,9,9"
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
    return tuple(_decided(spec, by_name.get(spec.name), symbols) for spec in specs)


def _match(spec: TensorSpec, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    given = ",".join(map(str, shape))
    if spec.shape is None:
        return
    takes = ",".join("?" if side is None else str(side) for side in spec.shape)
    if len(shape) != len(spec.shape):
        raise UsageError(
            f"--input-shapes: {given} has {len(shape)} sizes, and input {spec.name!r} has {len(spec.shape)} ({takes})"
        )
    for side, size in zip(spec.shape, shape, strict=True):
        if isinstance(side, int) and side != size:
            raise UsageError(
                f"--input-shapes: {given} contradicts the shape {takes} that the model fixes for {spec.name!r}"
            )
        if isinstance(side, str) and symbols.setdefault(side, size) != size:
            raise UsageError(
                f"--input-shapes: the size {side!r} would be both {symbols[side]} and {size}: make them equal"
            )


def _decided(spec: TensorSpec, shape: tuple[int, ...] | None, symbols: Mapping[str, int]) -> TensorSpec:
    if shape is not None:
        return replace(spec, shape=shape)
    if spec.shape is None:
        return spec
    return replace(spec, shape=tuple(symbols.get(side, side) if isinstance(side, str) else side for side in spec.shape))
