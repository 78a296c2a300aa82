"""ONNX files in: read, checked, folded."""
