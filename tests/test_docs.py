"""The documents in step with the code: flags and links."""

from __future__ import annotations

import re
from pathlib import Path

import command_reference
import pytest
from support import CHECKOUT

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


def test_the_command_reference_is_the_parsers_own() -> None:
    assert command_reference.PAGE.read_text("utf-8") == command_reference.make_page(), "make docs"


def test_help_wraps_once_and_offers_no_none() -> None:
    for name, parser in command_reference.parsers().items():
        for action in parser._actions:
            assert "\n" not in (action.help or ""), (name, action.option_strings)
            assert "{None}" not in str(action.metavar), (name, action.option_strings)


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


@pytest.mark.parametrize(
    "pattern",
    [
        r"gone on with|go(es)? on where|nobody asked|it said nothing|\b[Ww]hoever\b",
        r"\"\"\"(What|Who|That|Of) ",
    ],
)
def test_plain_words(pattern: str) -> None:
    sources = [*CHECKOUT.glob("*/sceneloom*/**/*.py"), *CHECKOUT.glob("benchmarks/**/*.py")]
    found = [
        f"{path.relative_to(CHECKOUT)}: {line.strip()}"
        for path in {*sources, *DOCUMENTS} - set(CHECKOUT.glob("docs/results/**/*.md"))
        for line in path.read_text("utf-8").splitlines()
        if re.search(pattern, line)
    ]
    assert found == []
