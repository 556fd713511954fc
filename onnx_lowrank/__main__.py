"""``python -m onnx_lowrank`` is the command ``onnx-lowrank``."""

from onnx_lowrank.cli.compress import console

if __name__ == "__main__":
    console()
