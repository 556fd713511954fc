"""The commands ``onnx-lowrank`` and ``onnx-lowrank-bench``."""
