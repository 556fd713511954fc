"""The types that the options of a user may have, in words as well."""

import math
import os
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

Check: TypeAlias = Callable[[object], bool]


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:
        return False


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool | np.bool_ | Integral) and value in (0, 1)


def _is_names(value: object) -> bool:
    return isinstance(value, tuple | list) and all(map(_is_text, value))


def _is_shapes(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _is_text(name) and isinstance(shape, tuple | list) and all(map(_is_whole, shape))
        for name, shape in value.items()
    )


_REQUIRED: tuple[tuple[tuple[str, ...], Callable[[object], bool], str], ...] = (
    (("speedup",), _is_number, "a number, such as 2.5"),
    (("images", "seed", "threads", "refine"), _is_whole, "a whole number"),
    (("memory",), _is_number, "a number of bytes, such as 4 * 2**30"),
    (("form", "width", "solver", "ranks", "objective", "target", "task", "boxes"), _is_text, "a name as text"),
    (("rank_multiple",), lambda value: _is_whole(value) or _is_text(value), "a whole number, 'blocks' or 'auto'"),
    (("symmetric", "residual", "refit", "include_gemm", "curve"), _is_flag, "True or False"),
    (("providers",), _is_names, 'a tuple of names, such as ("cuda", "cpu")'),
    (("input_shapes",), _is_shapes, 'shapes by the names of the inputs, such as {"x": (1, 3, 224, 224)}'),
)
"""Options that must be given, with what they must be."""

_OPTIONAL: tuple[tuple[tuple[str, ...], Callable[[object], bool], str], ...] = (
    (("preset", "latency_device"), _is_text, "a name, or None"),
    (("include", "exclude"), _is_text, "one regular expression, such as 'conv1|conv2', or None"),
    (("latency_table",), _is_path, "the path of a file, or None"),
    (("latency_batch",), _is_whole, "a whole number, or None"),
)
"""Options that may be None."""


def _or_none(fits: Check) -> Check:
    return lambda value: value is None or fits(value)


TYPES: Mapping[str, tuple[Check, str]] = MappingProxyType(
    {name: (fits, wanted) for names, fits, wanted in _REQUIRED for name in names}
    | {name: (_or_none(fits), wanted) for names, fits, wanted in _OPTIONAL for name in names}
)
"""What each option must be, by its name: a check, and what to give in place of a value that fails it."""
