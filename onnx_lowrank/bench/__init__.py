"""The speed of models on ONNX Runtime: whole models in turns, and every node of a model."""
