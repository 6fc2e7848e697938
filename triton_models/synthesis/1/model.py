"""Triton's Python backend loads this file; the model itself is in sceneloom_serving."""

from sceneloom_serving.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
