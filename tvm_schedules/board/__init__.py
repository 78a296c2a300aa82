"""A board's side of remote benchmarks: numpy and TVM's runtime, no compiler, no torch, no onnx."""
