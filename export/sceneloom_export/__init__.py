"""Export: the served graph as ONNX, its rules, its parity, and the Triton repository."""
