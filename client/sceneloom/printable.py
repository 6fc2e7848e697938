"""Foreign text made safe to print: names of files, texts of servers, rows of manifests.

A terminal obeys control characters, also those in a file name: they clear lines, retitle windows
and reverse the direction of what follows. Every command escapes what it did not write itself.
"""

from __future__ import annotations

import re

# C0 and C1 controls, delete, line and paragraph separators, marks and overrides of direction, and
# the lone surrogates that stand for bytes of names that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object) -> str:
    """A text in one line that a terminal shows and does not obey.

    Args:
        text: what is printed, such as an error or a path.

    Returns:
        the same with control characters, line ends and overrides of direction as ``\\x1b``,
        ``\\n`` and ``\\u202e``; a byte of a name that is not UTF-8 as ``\\xff``.
    """
    return _UNSAFE.sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # the byte itself
    return _SHORT.get(match[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
