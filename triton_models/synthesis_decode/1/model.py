"""Triton's Python backend loads this file; the model itself is in sceneloom_serving."""

from sceneloom_serving.encoded_models import DecodeModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
