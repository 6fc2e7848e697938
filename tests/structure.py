"""The product's structure in figures: files, lines, functions, imports, and circles among modules.

    python tests/structure.py            # of the checkout
    python tests/structure.py ../other   # of another checkout

Product code is everything in Python outside tests/, examples/ and benchmarks/experiments/. A
private function is "named once" if its file holds its name twice: in the definition and in one use.
Code lines are lines without comments, docstrings and blank lines.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import re
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE_FOLDERS = ("client", "streets", "training", "export", "serving", "gateway", "benchmarks")
_SKIPPED = ("benchmarks/experiments/",)
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Module:
    """A file of the product."""

    name: str
    """Dotted, as it is imported: ``sceneloom.maps``."""
    path: Path
    """Below the checkout."""
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]


def read_modules(checkout: Path = CHECKOUT) -> dict[str, Module]:
    """Every module of the product by its dotted name, those of the Triton repository included."""
    found = {}
    for folder in (*PACKAGE_FOLDERS, "triton_models"):
        for path in sorted((checkout / folder).rglob("*.py")):
            below = path.relative_to(checkout)
            if below.as_posix().startswith(_SKIPPED) or "site-packages" in below.parts:
                continue
            parts = list(path.relative_to(checkout / folder).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text("utf-8")
            found[name] = Module(name, below, text, ast.parse(text))
    return found


def imports(module: Module, modules: Mapping[str, Module]) -> set[str]:
    """Modules of the product that a module's import statements name, wherever they stand.

    ``from package import name`` is the module ``package.name`` if there is one, else ``package``.
    The packages around an imported module are not counted: Python runs them, but no statement needs
    anything of them.
    """
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return {name for name in found if name in modules and name != module.name}


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one module, the largest first (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            members = set(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(members) > 1:
                found.append(members)

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return sorted(found, key=len, reverse=True)


def named_once(modules: Mapping[str, Module]) -> list[str]:
    """Private functions that their file uses once, as ``path:line name``."""
    found = []
    for module in modules.values():
        words = Counter(re.findall(r"\b_[A-Za-z]\w*", module.text))
        found += [
            f"{module.path}:{function.lineno} {function.name}"
            for function in module.functions
            if re.match(r"_(?!_)", function.name) and words[function.name] == 2
        ]
    return found


def code_lines(module: Module, function: Function) -> int:
    """Code lines of a function, its signature included."""
    docstrings = {
        line
        for node in ast.walk(function)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    last = function.end_lineno or function.lineno
    text = "\n".join(module.text.split("\n")[function.lineno - 1 : last])
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(_dedented(text)).readline):
        if token.type not in _NO_CODE and token.string.strip():
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len({line + function.lineno - 1 for line in lines} - docstrings)


def _dedented(text: str) -> str:
    """A function's text whose first line begins at the margin; the tokenizer wants no less."""
    margin = len(text) - len(text.lstrip())
    return "\n".join(
        line[margin:] if not line[:margin].strip() else line for line in text.split("\n")
    )


def report(checkout: Path) -> Iterator[str]:
    """The figures, a line each."""
    modules = read_modules(checkout)
    graph = {name: imports(module, modules) for name, module in modules.items()}
    functions = [(module, f) for module in modules.values() for f in module.functions]
    once = named_once(modules)
    lines = [module.lines for module in modules.values()]
    long_files = [f"{m.path} ({m.lines})" for m in modules.values() if m.lines > 600]
    sizes = [(code_lines(module, f), module, f) for module, f in functions]
    long = [f"{m.path}:{f.lineno} {f.name} ({size})" for size, m, f in sizes if size > 80]
    found = circles(graph)
    median = statistics.median(lines)
    yield f"files {len(modules)}, lines {sum(lines)}, median file {median:.0f} lines"
    for folder in PACKAGE_FOLDERS:
        own = [m.lines for m in modules.values() if m.path.parts[0] == folder]
        if own:
            yield f"  {folder}: files {len(own)}, lines {sum(own)}"
    share = len(once) / len(functions)
    yield f"functions {len(functions)}, private and named once {len(once)} ({share:.1%})"
    yield f"imports per file {sum(map(len, graph.values())) / len(modules):.1f}"
    yield f"circles {len(found)}" + "".join(
        f"; {len(c)} modules: {', '.join(sorted(c))}" for c in found
    )
    yield f"files above 600 lines {len(long_files)}: {', '.join(long_files)}"
    yield f"functions above 80 code lines {len(long)}: {', '.join(long)}"


if __name__ == "__main__":
    print(*report(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else CHECKOUT), sep="\n")
