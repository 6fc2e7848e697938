"""A command line parsed by tyro: the parameters of a function, and the fields of its dataclasses,
are the arguments; their docstrings are the help.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Sequence

import docstring_parser
import tyro

CONFIG = (tyro.conf.DisallowNone,)
"""None is a default, not a value to type."""


def run(main: Callable[..., int], *, prog: str, arguments: Sequence[str]) -> int:
    """Parse the arguments and call `main` with them; returns its exit code.

    Raises:
        SystemExit: the command line is wrong (code 2), or asks for help (code 0).
    """
    join_help_lines(main)
    return int(tyro.cli(main, prog=prog, args=list(arguments), config=CONFIG))


def join_help_lines(main: Callable[..., int]) -> None:
    """Join the lines of each argument's help, so that a terminal wraps it once.

    tyro 1.0 joins lines before it removes their indentation, which leaves indented ones apart.
    """
    if main.__doc__:
        main.__doc__ = re.sub(r"\n {9,}(?=\S)", " ", main.__doc__)
    for hint in typing.get_type_hints(main).values():
        _join_field_lines(hint)


def _join_field_lines(kind: object) -> None:
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return
    help_of = {
        each.arg_name: " ".join((each.description or "").split())
        for base in reversed(kind.__mro__)
        if dataclasses.is_dataclass(base)
        for each in docstring_parser.parse_from_object(base).params
    }
    kinds = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if help_of.get(field.name):
            field.metadata = {"help": help_of[field.name]}  # type: ignore[assignment]
        _join_field_lines(kinds[field.name])
