"""The version of SceneLoom."""

__version__ = "0.1.0"
