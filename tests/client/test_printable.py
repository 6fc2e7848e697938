"""Foreign text never reaches a terminal as it is: what is shown instead, and by which commands."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.errors import RequestRejectedError
from sceneloom.rendering.manifest import Manifest
from sceneloom.schema import load_schema
from sceneloom.text import counted, printable

if TYPE_CHECKING:
    from conftest import Start

EVIL = "\x1b]0;gone\x07\x9b2J\u202egnp\u2066\x7f"
SHOWN = "\\x1b]0;gone\\x07\\x9b2J\\u202egnp\\u2066\\x7f"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
PLAIN = Contract(schema=load_schema("cityscapes"), boundaries=False, size_multiple=8)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("straße/日本/a b.png", "straße/日本/a b.png"),
        (EVIL, SHOWN),
        ("a\nfailed: b\r\t", "a\\nfailed: b\\r\\t"),
        ("a\u2028b\u200f\u061c", "a\\u2028b\\u200f\\u061c"),
        ("not UTF-8 \udcff", "not UTF-8 \\xff"),
        ("\ud800", "\\ud800"),
        (Path("a\x1bb"), "a\\x1bb"),
    ],
)
def test_what_is_shown(text: object, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_any_text_becomes_one_safe_line(text: str) -> None:
    shown = printable(text)
    assert not UNSAFE.search(shown)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert printable(shown) == shown


def test_counted() -> None:
    found = [counted(n, "map") for n in (0, 1, 2, 1500)]
    assert found == ["0 maps", "1 map", "2 maps", "1,500 maps"]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command and returns what it printed, which holds nothing unsafe."""

    def run(*arguments: object, code: int = 1) -> str:
        assert main([*map(str, arguments)]) == code
        text = "".join(capsys.readouterr())
        assert not UNSAFE.search(text), repr(text)
        return text

    return run


def write_map(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.full((32, 32), 7, np.uint8))[1].tobytes())


def test_names_that_control_a_terminal_are_escaped_by_render(
    tmp_path: Path, start_server: Start, said: Callable[..., str]
) -> None:
    labels = tmp_path / "maps" / "test_label"
    write_map(labels / "good.png")
    write_map(labels / f"line\nfailed: {EVIL}.png")
    (labels / f"{EVIL}.bmp").write_bytes(b"x")
    (labels / "low\x1b.png").write_bytes(b"")
    out = tmp_path / f"out{EVIL}"
    command = ["render", tmp_path / "maps", out, "--url", start_server(PLAIN).url]
    for more in ([], ["--log", "json"], ["--log", "none"], ["--dry-run"]):
        assert f"test_label/{SHOWN}.bmp" in said(*command, *more)
    with Manifest(out / "manifest.sqlite") as manifest:  # somebody else's rows
        row = manifest.row("good")
        assert row is not None
        evil = dataclasses.replace(row, key=f"z{EVIL}", output=f"{EVIL}\n.png")
        manifest.record([evil])
    assert f"damaged: {SHOWN}\\n.png: is not there" in said(*command, "--verify")


def test_what_a_server_says_is_escaped(
    tmp_path: Path, start_server: Start, said: Callable[..., str]
) -> None:
    write_map(tmp_path / "maps" / "test_label" / "a.png")
    url = start_server(PLAIN, failures=[RequestRejectedError(f"no{EVIL}")] * 20).url
    assert "failed: " in said("render", tmp_path / "maps", tmp_path / "out", "--url", url)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["schemas", EVIL], 1),
        (["render", EVIL, "out", "--shard", EVIL], 2),
        (["render", EVIL, "out", "--url", "127.0.0.1:9"], 3),
        ([EVIL], 2),
        (["verify", EVIL], 1),
        (["runtimes", EVIL], 1),
        (["probe", EVIL, "--url", "127.0.0.1:9"], 1),
        (["serve", EVIL], 1),
    ],
)
def test_arguments_are_escaped(command: list[str], code: int, said: Callable[..., str]) -> None:
    said(*command, code=code)
