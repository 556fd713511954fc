"""ONNX Runtime, which only this folder imports, and the threads of the linear algebra beside it."""
