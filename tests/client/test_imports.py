"""Imports point one way, and the light package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structure import circles, imports, read_modules

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "sceneloom": "client",
    "sceneloom_streets": "streets",
    "sceneloom_training": "training",
    "sceneloom_export": "export",
    "sceneloom_serving": "serving",
    "sceneloom_gateway": "gateway",
    "sceneloom_bench": "benchmarks",
}
MAY_IMPORT = {
    "sceneloom": set(),
    "sceneloom_streets": {"sceneloom"},
    "sceneloom_training": {"sceneloom", "sceneloom_streets"},
    "sceneloom_serving": {"sceneloom"},
    "sceneloom_gateway": {"sceneloom", "sceneloom_streets"},
    "sceneloom_export": {
        "sceneloom",
        "sceneloom_streets",
        "sceneloom_training",
        "sceneloom_serving",
    },
    "sceneloom_bench": set(FOLDERS),
}
ENGINES = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "sklearn", "scipy")
HEAVY = (
    *ENGINES,
    "sceneloom_streets",
    "sceneloom_training",
    "sceneloom_export",
    "sceneloom_serving",
    "sceneloom_gateway",
    "sceneloom_bench",
)

Sources = list[tuple[str, ast.Module]]


def sources(package: str) -> Sources:
    """Every module of a package: its path from the checkout, and its syntax tree."""
    folder = CHECKOUT / FOLDERS[package] / package
    return [
        (path.relative_to(CHECKOUT).as_posix(), ast.parse(path.read_text("utf-8")))
        for path in sorted(folder.rglob("*.py"))
    ]


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Top-level packages that import statements name."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run when the module is imported: not those inside functions, and not those
    under ``if TYPE_CHECKING``.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_module_level(child)


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_point_one_way(package: str) -> None:
    modules = sources(package)
    assert modules
    forbidden = set(FOLDERS) - MAY_IMPORT[package] - {package}
    broken = {path: imported(at_module_level(tree)) & forbidden for path, tree in modules}
    assert {path: names for path, names in broken.items() if names} == {}


def test_no_package_imports_an_experiment() -> None:
    """Experiments are not in the wheel."""
    experiments = {path.stem for path in (CHECKOUT / "benchmarks" / "experiments").glob("*.py")}
    assert experiments
    users = {
        path: imported(ast.walk(tree)) & experiments
        for package in FOLDERS
        for path, tree in sources(package)
    }
    assert {path: names for path, names in users.items() if names} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions and under TYPE_CHECKING count: a reader follows them as well."""
    modules = read_modules()
    found = circles({name: imports(module, modules) for name, module in modules.items()})
    assert found == []


def test_a_circle_is_found_whatever_leads_into_it() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}, "e": {"a"}, "f": {"e"}}
    assert circles(graph) == [{"b", "c", "d"}]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_the_rule_sees_what_it_should() -> None:
    source = """
from __future__ import annotations
import sceneloom_export.graph as graph
try:
    from sceneloom_bench import load
except ImportError:
    load = None
class A:
    import sceneloom_serving
if TYPE_CHECKING:
    import torch
def f():
    import onnx
"""
    assert imported(at_module_level(ast.parse(source))) == {
        "__future__",
        "sceneloom_export",
        "sceneloom_bench",
        "sceneloom_serving",
    }


def test_serving_needs_no_torch_but_for_a_package_that_torch_compiled() -> None:
    users = [
        path
        for path, tree in sources("sceneloom_serving")
        if imported(ast.walk(tree)) & {"sceneloom_training", "torch"}
    ]
    assert users == ["serving/sceneloom_serving/aoti_runtime.py"]
    (tree,) = (tree for path, tree in sources("sceneloom_serving") if path == users[0])
    assert "torch" not in imported(at_module_level(tree))


def test_the_street_painter_needs_numpy_opencv_and_the_errors_alone() -> None:
    nodes = [node for _, tree in sources("sceneloom_streets") for node in ast.walk(tree)]
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    own = {name for name in named if name.split(".")[0] == "sceneloom_streets"}
    assert named - own - set(sys.stdlib_module_names) - {
        "collections.abc",
        "concurrent.futures",
    } == {
        "cv2",
        "numpy",
        "numpy.typing",
        "sceneloom.errors",
    }


@pytest.mark.parametrize(
    "code",
    [
        "import sceneloom",
        "import sceneloom.testing, sceneloom.render_command",
        "import sceneloom.style, sceneloom.style",
        "from sceneloom.cli import main; main(['--help'])",
        "from sceneloom.cli import main; main(['schemas'])",
        "from sceneloom.cli import main; main(['no-such-command'])",
        "from sceneloom.cli import main; main(['render', '/nowhere', 'o', '--url', '127.0.0.1:1'])",
    ],
)
def test_the_light_package_loads_nothing_heavy(code: str) -> None:
    report = "import sys; print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stdout.splitlines()[-1].removeprefix("loaded: ").split())
    assert "sceneloom" in loaded
    assert loaded & set(HEAVY) == set()
    if "render" not in code:
        assert "tritonclient" not in loaded


def test_no_command_loads_an_engine_for_its_help() -> None:
    tests = str(CHECKOUT / "tests")
    code = f"import sys; sys.path.append({tests!r})\n"
    code += "import command_reference; command_reference.parsers()\n"
    code += "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "sceneloom_bench" in loaded
    assert loaded & set(ENGINES) == set()
