"""Words of other programs within a sentence of SceneLoom's: one line, never cut within a word."""

from __future__ import annotations

MOST = 300
"""Characters of another program's text, unless the caller names another number."""


def one_line(text: str, *, most: int = MOST) -> str:
    """A text with its line breaks and runs of blanks as single blanks.

    Args:
        text: any text.
        most: a longer text ends with its last whole word before this many characters, and " ...";
            its first word stays whole however long.
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


def reason(error: BaseException, *, most: int = MOST) -> str:
    """Why an error of another library came: the system's own words, else its first line, else the
    name of its kind.

    Raises:
        MemoryError: it is one, which says nothing of what was read.
    """
    if isinstance(error, MemoryError):
        raise error
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(lines[0], most=most) if lines else type(error).__name__
