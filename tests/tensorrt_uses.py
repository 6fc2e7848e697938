"""What our code uses of TensorRT's and CUDA's Python bindings, read from its syntax trees.

A name is followed from the variables that hold TensorRT's objects: `config.set_flag(...)` is
IBuilderConfig.set_flag. A function is for every generation of TensorRT unless it is named below.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator

from support import CHECKOUT

GENERATIONS = ("8.6", "10", "11")
FILES = (
    "export/sceneloom_export/tensorrt_build.py",
    "serving/sceneloom_serving/tensorrt_runtime.py",
    "serving/sceneloom_serving/gpu.py",
)
ONLY_FOR = {
    "_network_flags_8": ("8.6",),
    "_configure_8": ("8.6",),
    "_constrain": ("8.6",),
    "_network_flags_10": ("10",),
    "_choose_norms": ("10", "11"),
    "_same_capability": ("10", "11"),
    "_whole_context": ("8.6",),
    "_own_context": ("10", "11"),
}
TENSORRT, CUDA = "tensorrt", "cuda.bindings.runtime"
VARIABLES = {
    "trt": TENSORRT,
    "tensorrt": TENSORRT,
    "load_tensorrt()": TENSORRT,
    "cudart": CUDA,
    "self._cuda": CUDA,
    "load_cuda()": CUDA,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "layer": "ILayer",
    "layer.get_output(i)": "ITensor",
    "added": "IOptimizationProfile",
    "cache": "ITimingCache",
    "config.get_timing_cache()": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
}
"""Variable or expression in these files -> the class, or module, of what it holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """One name that the code uses."""

    owner: str
    """Class or module; `CUDA` names end in their enum, if they are in one."""
    name: str
    arguments: int | None
    """How many positional arguments it is called with; None where it is not called."""
    generations: tuple[str, ...]
    where: str
    """File and line."""


def uses() -> list[Use]:
    """Everything that is used, in the order of the files."""
    found = []
    for file in FILES:
        tree = ast.parse((CHECKOUT / file).read_text("utf-8"))
        for node, function in _with_functions(tree, ""):
            if isinstance(node, ast.Attribute):
                found += _use(node, tree, f"{file}:{node.lineno}", ONLY_FOR.get(function))
    return found


def _with_functions(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        inside = child.name if isinstance(child, ast.FunctionDef) else function
        yield child, inside
        yield from _with_functions(child, inside)


def _use(
    node: ast.Attribute, tree: ast.Module, where: str, generations: tuple[str, ...] | None
) -> list[Use]:
    owner = _owner(node.value)
    if owner is None:
        return []
    calls = [c for c in ast.walk(tree) if isinstance(c, ast.Call) and c.func is node]
    return [
        Use(
            owner=owner,
            name=node.attr,
            # A base's constructor is called with self.
            arguments=len(calls[0].args) - (node.attr == "__init__") if calls else None,
            generations=generations or GENERATIONS,
            where=where,
        )
    ]


def _owner(value: ast.expr) -> str | None:
    text = ast.unparse(value)
    if text in VARIABLES:
        return VARIABLES[text]
    if isinstance(value, ast.Attribute):  # an enum's member: trt.BuilderFlag.FP16
        module = VARIABLES.get(ast.unparse(value.value))
        if module == TENSORRT:
            return value.attr
        if module == CUDA:
            return f"{CUDA}.{value.attr}"
    return None
