"""The graph island: everything that knows ONNX files and nodes."""
