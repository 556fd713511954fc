"""Outputs taken apart into arrays: the tensors of a sequence, and the numbers of maps."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def parts(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays that the outputs of a run consist of.

    A tensor keeps the name of its output. The tensors of the sequence ``y`` are ``y[0]``, ``y[1]``, …; a map becomes an
    array of its values in the order of its keys, and a sequence of maps with the same keys, as classifiers make it, an
    array with a row for each. What is no array of any kind, such as an optional that is empty, is returned as it is.
    """
    arrays: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, list) and value and all(isinstance(element, dict) for element in value):
            alike = all(element.keys() == value[0].keys() for element in value)
            arrays[name] = np.stack([_values(element) for element in value]) if alike else value
        elif isinstance(value, list):
            arrays |= parts({f"{name}[{number}]": element for number, element in enumerate(value)})
        else:
            arrays[name] = _values(value) if isinstance(value, dict) else value
    return arrays


def _values(elements: Mapping[Any, Any]) -> Any:
    values = np.array([elements[key] for key in sorted(elements)])
    return values.astype(np.float32) if values.dtype == np.float64 else values
