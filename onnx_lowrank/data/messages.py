"""Phrases that several messages share: counts, shapes, names of arrays, and the reasons of other libraries."""

from collections.abc import Sequence

from onnx_lowrank.interface import TensorSpec


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 image" or "300 images"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def counted(drawn: int, available: int, noun: str) -> str:
    """Return "300 of 2500 images", or "300 images" where that is all there is."""
    everything = plural(available, noun)
    return everything if drawn == available else f"{drawn} of {everything}"


def some(names: Sequence[str], most: int = 3) -> str:
    """Return names joined by commas, with dots in place of those beyond ``most``."""
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])


def shape_text(shape: Sequence[int | str | None]) -> str:
    """Return a shape as text, such as "Nx3x224x?"."""
    return "x".join("?" if side is None else str(side) for side in shape) or "a scalar"


def array_label(origin: object, key: str) -> str:
    """Return the name of a stored array in messages; the key is empty where the origin holds only one array."""
    return f"{origin}, array {key!r}" if key else str(origin)


def input_label(origin: str, spec: TensorSpec, specs: Sequence[TensorSpec]) -> str:
    """Return the name of the array that feeds one of the inputs ``specs``."""
    return origin if len(specs) == 1 else f"{origin}, input {spec.name!r}"


def reason(error: BaseException) -> str:
    """Return the text of another library's error on one line."""
    return " ".join(str(error).split())
