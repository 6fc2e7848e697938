"""docs/commands.md, made from the commands' own parsers.

python tests/command_reference.py    # writes docs/commands.md
"""

from __future__ import annotations

import argparse
import importlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import tyro

from sceneloom.cli import COMMANDS, CONFIG, join_help_lines
from sceneloom_bench.bench_command import BENCHMARKS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
_HEAD = """# Commands

`sceneloom COMMAND --help` shows the same. Sizes are written WIDTHxHEIGHT; code and files use the
order (height, width). `make docs` makes this page from the parsers.
"""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Parser of each command, by its name."""
    modules = {
        **{name: module for name, (module, _) in COMMANDS.items()},
        **{f"bench {name}": module for name, (module, _) in BENCHMARKS.items()},
    }
    found = {}
    for name, module in modules.items():
        command = importlib.import_module(module)
        if hasattr(command, "main"):
            join_help_lines(command.main)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                found[name] = tyro.extras.get_parser(command.main, config=CONFIG)
    return found


def make_page() -> str:
    """The page as Markdown."""
    sections = ["\n".join(_section(name, parser)) for name, parser in parsers().items()]
    return "\n".join([_HEAD, *sections])


def _section(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    groups = [(group.title or "", group._group_actions) for group in parser._action_groups]
    positional = [str(action.metavar) for action in dict(groups)["positional arguments"]]
    yield " ".join(["## sceneloom", name, *positional])
    yield f"\n{_escaped(parser.description or '')}\n"
    for title, actions in groups:
        shown = [action for action in actions if "--help" not in action.option_strings]
        if shown:
            words = {"positional arguments": "argument", "options": "flag"}
            yield f"| {words.get(title, title.removesuffix(' options'))} | meaning |"
            yield "|---|---|"
            for action in shown:
                yield f"| {_named(action)} | {_escaped(action.help or '')} |"
            yield ""


def _named(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar}`"
    value = "" if action.metavar is None else f" {action.metavar}"
    return " ".join(f"`{_escaped(flag + value)}`" for flag in action.option_strings)


def _escaped(text: str) -> str:
    text = re.sub(r" ?\(default: (None|''|)\)$", "", " ".join(text.split()))
    return text.replace("|", "\\|").replace("``", "`").replace("%%", "%")


if __name__ == "__main__":
    PAGE.write_text(make_page(), "utf-8")
