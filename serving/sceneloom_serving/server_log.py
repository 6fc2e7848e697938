"""Triton's log: parsed, shortened for people, and searched for why a server did not start."""

from __future__ import annotations

import dataclasses
import re
import signal

_LINE = re.compile(r"([IWEFV])\d{4} [\d:.]+ \d+ [\w.]+:\d+\] ?(.*)", re.DOTALL)
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "error", "V": "verbose"}
# Tables, the frames below an exception, and the answer to our own signal.
_NOISE = re.compile(r"[+|]|At:|\S.*\(\d+\): \S+$|Signal \(\d+\) received")
# Notes of a CPU-only server about the GPU and metrics it does not have.
_EXPECTED = ("cuda", "gpu", "dcgm", "pinned memory", "cache manager", "nvml", "numa")
USAGE = "Usage: tritonserver"
"""Begins the text that Triton prints, to its end, where it takes a flag for wrong."""
_LAST_WORDS = re.compile(r"Signal \((\d+)\) received|what\(\): *(.+)")
_STUB_REFUSED = re.compile(r"sh: .*triton_python_backend_stub: (.+)")
_EXPECTED_ERRORS = ("CudaDriverHelper", "unable to create stream")


@dataclasses.dataclass(frozen=True)
class LogLine:
    """One line of Triton's log."""

    level: str
    """``error``, ``warning``, ``info``, ``verbose``, or ``output`` for anything else the processes
    print.
    """
    text: str
    """What it says, without date, process and source file."""

    @property
    def summary(self) -> str | None:
        """What an operator wants to see who has not asked for the whole log, or None.

        Errors, unexpected warnings, and what the model's process prints; of a traceback its first
        line.
        """
        text = self.text.split("\n")[0].strip()
        if self.level == "error" and not any(words in text for words in _EXPECTED_ERRORS):
            return text
        if self.level == "warning" and not any(word in text.lower() for word in _EXPECTED):
            return text
        if self.level == "output" and text and not _NOISE.match(text):
            return text
        return None


def parse_line(line: str) -> LogLine:
    """Parse one line of the server's standard error."""
    match = _LINE.fullmatch(line.rstrip())
    if match is None:
        return LogLine("output", line.strip())
    text = match[2]
    if len(text) > 1 and text.startswith('"') and text.endswith('"'):
        text = re.sub(
            r"\\(.)", lambda escape: {"n": "\n", "t": "\t"}.get(escape[1], escape[1]), text[1:-1]
        )
    return LogLine(_LEVELS[match[1]], text)


def explain_end(code: int, lines: list[LogLine]) -> str:
    """One sentence on how the server ended.

    Args:
        code: its exit code, negative for a signal.
        lines: its log.
    """
    if code < 0:
        return f"the Triton server was ended by {_signal(-code)}"
    return f"the Triton server ended with code {code}: {explain_failure(lines)}"


def last_words(lines: list[LogLine]) -> str:
    """What the model's process said of its end, in brackets; empty where it said nothing.

    Args:
        lines: the server's log.
    """
    for line in reversed(lines):
        if line.level == "output" and (match := _LAST_WORDS.match(line.text)):
            return f" ({_signal(int(match[1])) if match[1] else match[2]})"
    return ""


def stub_refusal(line: LogLine) -> str | None:
    """Why the shell could not start the model's process, if this line says so."""
    match = _STUB_REFUSED.search(line.text) if line.level == "output" else None
    return match[1] if match else None


def explain_failure(lines: list[LogLine]) -> str:
    """One sentence on why the server stopped, from the end of its log."""
    errors = [
        line.text
        for line in lines
        if line.level == "error" and not any(words in line.text for words in _EXPECTED_ERRORS)
    ]
    if any("Unable to initialize shared memory" in text for text in errors):
        return "the model's process needs shared memory, and /dev/shm is full, small or read-only"
    for text in errors:
        match = re.search(r"failed to load '([^']+)' version \d+: \w[\w ]*: (.*)", text, re.DOTALL)
        if match:
            return f"model {match[1]!r} was refused: {_last_reason(match[2])}"
    for text in errors:
        if "Address already in use" in text or "failed to start" in text.lower():
            return text
    if errors:
        return errors[-1]
    said = [line.text for line in lines if line.level == "output" and line.text]
    return said[-1] if said else "no output"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_reason(text: str) -> str:
    """A Python traceback ends in the exception; the backend adds the frames below it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [
        line for line in lines if not line.startswith("At:") and not re.match(r"\S+\(\d+\):", line)
    ]
    return (kept or lines or [text])[0].rstrip(";")
