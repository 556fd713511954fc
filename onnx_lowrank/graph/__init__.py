"""The graph island: everything that knows ONNX files and nodes.

``files`` reads and writes models, ``Network`` holds one, ``find`` describes its layers, and ``edit`` changes it.
"""
