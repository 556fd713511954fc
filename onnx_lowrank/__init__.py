"""Low-rank factorisation of the convolutions in an ONNX model: no labels, no training framework.

X. Zhang, J. Zou, K. He, J. Sun, "Accelerating Very Deep Convolutional Networks for Classification and Detection",
TPAMI 2015 (arXiv 1505.06798). Section and equation numbers in this package are that paper's.
"""

from onnx_lowrank._version import __version__
from onnx_lowrank.api import compress
from onnx_lowrank.errors import LowRankError
from onnx_lowrank.pipeline import Result

__all__ = ["LowRankError", "Result", "__version__", "compress"]
