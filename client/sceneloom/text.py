"""Text for people: foreign text made safe to print, causes of errors, counts.

A terminal obeys control characters, also those in a file name: they clear lines, retitle windows
and reverse the direction of the text after them. Every command escapes foreign text.
"""

from __future__ import annotations

import json
import re
from typing import Any

_LONGEST_REASON = 300
# C0 and C1 controls, delete, line and paragraph separators, marks and overrides of direction, and
# the lone surrogates that stand for bytes of names that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object) -> str:
    """The text in one line that a terminal shows and does not obey: control characters, line ends
    and overrides of direction become ``\\x1b``, ``\\n`` and ``\\u202e``; a byte of a name that is
    not UTF-8 becomes ``\\xff``.
    """
    return _UNSAFE.sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # the byte itself
    return _SHORT.get(match[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def one_line(text: str, *, most: int = _LONGEST_REASON) -> str:
    """The text with single blanks for line breaks and runs of blanks. Beyond `most` characters it
    ends with its last whole word and " ..."; its first word stays whole.
    """
    words = text.split()
    kept: list[str] = []
    length = -1
    for word in words:
        length += 1 + len(word)
        if kept and length > most:
            return " ".join(kept) + " ..."
        kept.append(word)
    return " ".join(kept)


def reason(error: BaseException, *, most: int = _LONGEST_REASON) -> str:
    """Cause of another library's error: the system's words, else the first line, else the class.

    Raises a MemoryError again, because it does not depend on the input.
    """
    if isinstance(error, MemoryError):
        raise error
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(lines[0], most=most) if lines else type(error).__name__


def counted(count: int, noun: str) -> str:
    """``1 map``, ``1,500 pixels``; for nouns whose plural ends in s."""
    return f"{count:,} {noun}" + "s" * (count != 1)


_AMOUNT = re.compile(r"\d[\d,]* (pixel|byte)s?")
_FILE = re.compile(r"^[^:]*\.\w{3,5}: ")  # behind the name of one of several looks


class AlikeSentences:
    """Sentences on files, ``FILE: reason``, where files of one reason make one sentence."""

    def __init__(self, *, most: int | None = None, most_names: int | None = None) -> None:
        """Keep `most` sentences, and name `most_names` further files in each; None for all."""
        self._most, self._most_names = most, most_names
        self._first: dict[str, str] = {}
        self._others: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, sentence: str) -> None:
        """Add a sentence. Reasons that differ in numbers of pixels or bytes count as one."""
        name, _, why = sentence.partition(": ")
        alike = _AMOUNT.sub("", _FILE.sub("", why)) if why else sentence
        if alike in self._first:
            self._counts[alike] += 1
            others = self._others[alike]
            if self._most_names is None or len(others) < self._most_names:
                others.append(name)
        elif self._most is None or len(self._first) < self._most:
            self._first[alike], self._others[alike], self._counts[alike] = sentence, [], 0

    def lines(self) -> list[str]:
        """The sentence of the first file of each reason, with the names of the others."""
        lines = []
        for alike, sentence in self._first.items():
            count, names = self._counts[alike], ", ".join(self._others[alike])
            more = ", ..." * (count > len(self._others[alike]))
            others = f"; the same reason for {count:,} more ({names}{more})" if count else ""
            lines.append(sentence + others)
        return lines


MAX_LEVELS = 100
"""Levels of nested arrays and objects; no file of SceneLoom has ten."""


def parse_json(
    text: str | bytes | bytearray,
    *,
    source: str = "",
    error: type[ValueError] = ValueError,
    **options: Any,
) -> Any:
    """Parse JSON with the options of `json.loads`.

    Raises `error`, beginning with the source if it has a name, for text that is not JSON, not
    UTF-8, or nested more than `MAX_LEVELS` deep.
    """
    fault = f"arrays and objects are nested more than {MAX_LEVELS} deep"
    try:
        value = json.loads(text, **options)
        level = [value]
        for _ in range(MAX_LEVELS + 1):
            containers = [each for each in level if isinstance(each, dict | list) and each]
            if not containers:
                return value
            level = [
                inner
                for each in containers
                for inner in (each.values() if isinstance(each, dict) else each)
            ]
    except RecursionError:
        pass
    except ValueError as met:
        fault = str(met)
    raise error(f"{source}: not readable as JSON ({fault})" if source else fault)
