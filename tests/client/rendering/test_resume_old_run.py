"""A run that an older version began is resumed: `old_run/` is its output."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.schema import load_schema

CONTRACT = Contract(
    schema=load_schema("cityscapes"), boundaries=True, size_multiple=8, bundle_hash=f"{1:064}"
)
COLUMNS = "key, status, attempts, input_hash, output_hash, finished, error_kind"


def rows(pictures: Path) -> dict[str, tuple[Any, ...]]:
    database = sqlite3.connect(pictures / "manifest.sqlite")
    found = database.execute(f"select {COLUMNS} from pictures").fetchall()
    database.close()
    return {row[0]: row[1:] for row in found}


def test_a_run_of_the_old_version_is_resumed_without_making_a_picture_again(
    tmp_path: Path, start_server: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Path(__file__).parent / "old_run", tmp_path, dirs_exist_ok=True)
    maps, pictures = tmp_path / "maps", tmp_path / "pictures"
    made = {path: path.read_bytes() for path in pictures.rglob("*.png")}
    old = rows(pictures)
    assert {key: row[0] for key, row in old.items()} == {
        **dict.fromkeys(("street/00", "street/01", "street/04"), "done"),
        **dict.fromkeys(("street/02", "street/03"), "failed"),
    }
    server = start_server(CONTRACT, engine="openvino-fp32")
    command = ["render", str(maps), str(pictures), "--url", server.url, "--log", "none"]
    assert main(command) == 1  # 03 has an unknown label still
    assert "rendered 2 of 6 maps" in capsys.readouterr().out
    assert len(server.transport.requests) == 2

    new = rows(pictures)
    for key in ("street/00", "street/01", "street/04"):
        assert new[key] == old[key]
    assert {path: path.read_bytes() for path in made} == made
    for key in ("street/02", "street/05"):
        assert new[key][0] == "done"
        assert (pictures / f"{key}.png").is_file()
    assert new["street/03"][0] == "failed"
    assert new["street/03"][-1] == "UnknownLabelError"
    database = sqlite3.connect(pictures / "manifest.sqlite")
    engines = dict(database.execute("select key, engine from pictures where status = 'done'"))
    database.close()
    assert engines == {
        **dict.fromkeys(("street/00", "street/01", "street/04"), ""),  # unknown to the old version
        **dict.fromkeys(("street/02", "street/05"), "openvino-fp32"),
    }

    assert main([*command, "--verify"]) == 1
    assert "5 pictures are as they were written, 0 are not" in capsys.readouterr().out
    assert main(command) == 1
    assert len(server.transport.requests) == 2
