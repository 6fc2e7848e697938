"""The documents in step with the code: flags, links, the templates' names."""

from __future__ import annotations

import re
from pathlib import Path

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


def links_of(document: Path) -> list[tuple[Path, str]]:
    """File and anchor of each link of a page that leads into the repository."""
    prose = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            found.append(((document.parent / path).resolve() if path else document, anchor))
    return found


def anchors_of(document: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a page."""
    prose = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    texts = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in texts}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(CHECKOUT).as_posix())
def test_links_and_their_anchors_exist(document: Path) -> None:
    links = links_of(document)
    assert [path for path, _ in links if not path.exists()] == []
    assert [
        (path.name, anchor)
        for path, anchor in links
        if anchor and path.suffix == ".md" and anchor not in anchors_of(path)
    ] == []


def test_every_page_is_reachable_from_the_readme() -> None:
    waiting, reached = [CHECKOUT / "README.md"], set()
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            waiting += [path for path, _ in links_of(page) if path.suffix == ".md"]
    pages = {page for page in DOCUMENTS if page.parent != CHECKOUT}
    assert sorted(page.relative_to(CHECKOUT).as_posix() for page in pages - reached) == []


def test_documents_that_the_code_names_exist() -> None:
    named = set()
    for source in CHECKOUT.glob("*/sceneloom*/**/*.py"):
        named |= set(re.findall(r"docs/[\w/.-]+\.md", source.read_text()))
    assert named
    assert [name for name in sorted(named) if not (CHECKOUT / name).is_file()] == []
