"""Export: from a checkpoint to a proven Triton repository, and to a TensorRT plan.

bundle.py           an export in order; begin here
graph.py            PyTorch to ONNX, and the rules of all engines; norms.py rewrites its norms
proof.py            maps, reference pictures and verdicts; the limits: sceneloom_serving/parity.py
precision.py        16 bit rounded, int8 quantised, recognition compared
repository.py       Triton's configurations
engine.py           a TensorRT plan, proven and timed; tensorrt_build.py calls TensorRT
settings.py         settings of `sceneloom export` and `sceneloom engine` (*_command.py)
"""
