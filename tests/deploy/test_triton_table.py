"""deploy/triton.md names every flag and field that we use of Triton, and 2.51 has what it says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from support import CHECKOUT

from sceneloom_export.bundle import Exported
from sceneloom_serving.bundle import read_config
from sceneloom_serving.bundled_server import find_bundled_server

OURS = ("sceneloom", "engine", "max_pixels", "difference", "fast")
"""Parameters that our own model and client read."""


def rows() -> dict[str, str]:
    """Flag, field or parameter -> since which version, in the page's tables."""
    found = {}
    since = -1
    for line in (CHECKOUT / "deploy" / "triton.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            continue
        if "since" in cells:
            since = cells.index("since")
        for name in re.findall(r"`([^`]+)`", cells[0]):
            assert name not in found, name
            found[name] = cells[since]
    return found


def flags() -> set[str]:
    """What the entrypoint and `sceneloom serve` pass."""
    script = (CHECKOUT / "deploy" / "entrypoint.sh").read_text()
    code = "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("#"))
    start = code.index("ulimit -s")
    call = code[start : code.index("server=$!", start)]
    found = set(re.findall(r"--[a-z][a-z-]+", call))
    found |= set(re.findall(r"shared=(--[a-z-]+)", code))
    embedded = (CHECKOUT / "serving" / "sceneloom_serving" / "embedded.py").read_text()
    start = embedded.index("command = [")
    call = embedded[start : embedded.index("self._process = ", start)]
    for flag in re.findall(r"--[a-z{}][a-z{}-]+", call):
        names = ("http", "grpc", "metrics") if "{name}" in flag else ("",)
        found |= {flag.replace("{name}", name) for name in names}
    return found


def test_the_table_has_every_flag_and_no_other() -> None:
    assert {name for name in rows() if name.startswith("--")} == flags()


@pytest.mark.triton
def test_the_oldest_server_knows_what_the_table_says() -> None:
    done = subprocess.run(
        [find_bundled_server().executable, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    known = set(re.findall(r"^ +(--[a-z-]+)", done.stdout + done.stderr, re.MULTILINE))
    assert "--model-repository" in known
    for flag in flags():
        assert (rows()[flag] == "2.51") == (flag in known), flag


def test_the_table_has_every_field_and_parameter_and_no_other(exported: Exported) -> None:
    used: set[str] = set()
    for path in exported.repository.rglob("*.pbtxt"):
        used |= set(fields(read_config(path), ""))
    table = {name for name in rows() if not name.startswith("--")}
    unknown = {
        name for name in used if not any(name == row or name.startswith(f"{row}.") for row in table)
    }
    assert unknown == set()
    unused = {row for row in table if not any(f"{name}.".startswith(f"{row}.") for name in used)}
    assert unused == set()


def fields(message: Message, prefix: str) -> Iterator[str]:
    """Dotted names of the fields that are set; backends' parameters by their own names."""
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        if field.name in ("optimization", "cuda", "execution_accelerators"):
            yield from fields(value, f"{name}.")
            continue
        yield name
        if field.name == "parameters":
            yield from (key for key in value if key not in OURS)
        elif field.name == "gpu_execution_accelerator":
            for one in value:
                yield from one.parameters


def test_a_page_without_a_row_would_be_seen(exported: Exported) -> None:
    """The walk finds what the templates are known to set."""
    found: set[Any] = set()
    for path in exported.repository.rglob("*.pbtxt"):
        found |= set(fields(read_config(path), ""))
    assert found >= {
        "optimization.cuda.graph_spec",
        "cudnn_conv_algo_search",
        "use_tf32",
        "execution_context_allocation_strategy",
    }
