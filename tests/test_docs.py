"""The documents in step with the code: flags, links, the templates' names."""

from __future__ import annotations

import re

import pytest
from support import CHECKOUT, run_command

from sceneloom.cli import COMMANDS

FLAG = r"--[a-z][a-z0-9.-]*[a-z0-9]"
DOCUMENTS = sorted(
    path
    for path in [
        *CHECKOUT.glob("*.md"),
        *CHECKOUT.glob("docs/**/*.md"),
        *CHECKOUT.glob("deploy/*.md"),
        *CHECKOUT.glob("examples/**/*.md"),
    ]
    if ".venv" not in path.parts
)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_reference_names_exactly_the_flags_there_are(command: str) -> None:
    text = (CHECKOUT / "docs" / "commands.md").read_text()
    sections = re.split(r"^## sceneloom ", text, flags=re.MULTILINE)[1:]
    (section,) = [s for s in sections if s.split()[0] == command]
    documented = set(re.findall(rf"`({FLAG})", section))
    shown = run_command(command, "--help").stdout
    assert documented == set(re.findall(rf"(?<![\w-])({FLAG})", shown)) - {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(CHECKOUT).as_posix())
def test_links_lead_somewhere(document: object) -> None:
    from pathlib import Path

    assert isinstance(document, Path)
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    missing = [
        link for link in links if "://" not in link and not (document.parent / link).exists()
    ]
    assert missing == []


def test_documents_that_the_code_names_exist() -> None:
    named = set()
    for source in CHECKOUT.glob("*/sceneloom*/**/*.py"):
        named |= set(re.findall(r"docs/[\w/.-]+\.md", source.read_text()))
    assert named
    assert [name for name in sorted(named) if not (CHECKOUT / name).is_file()] == []
