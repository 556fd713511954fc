"""Low-rank factorisation of the convolutions in an ONNX model: no labels, no training framework.

X. Zhang, J. Zou, K. He, J. Sun, "Accelerating Very Deep Convolutional Networks for Classification and Detection",
TPAMI 2015 (arXiv 1505.06798). Section and equation numbers in this package are that paper's.
"""

import importlib
from typing import TYPE_CHECKING, Any

from onnx_lowrank._version import __version__

if TYPE_CHECKING:
    from onnx_lowrank.api import compress
    from onnx_lowrank.errors import LowRankError
    from onnx_lowrank.pipeline import Result

__all__ = ["LowRankError", "Result", "__version__", "compress"]

_PLACES = {"compress": "api", "LowRankError": "errors", "Result": "pipeline"}
"""The modules that hold the names. They are imported when asked for: a process that measures needs little of them."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
