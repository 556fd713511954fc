"""ONNX Runtime: sessions, execution providers, and the threads of the linear algebra."""
