"""Models from .onnx files, run as torch modules."""
