"""Words of other programs end at a word, and say when the machine has not enough."""

from __future__ import annotations

import errno

import pytest

from sceneloom.errors import is_out_of_memory, out_of_resources
from sceneloom.text import one_line, reason


def test_a_long_text_ends_at_a_word() -> None:
    text = " ".join(["value"] * 100)
    cut = one_line(text, most=50)
    assert cut == "value value value value value value value value ..."
    assert one_line("one\n  two\tthree") == "one two three"
    assert one_line("x" * 1000, most=50) == "x" * 1000  # a path stays whole


def test_the_reason_is_the_systems_or_the_first_line() -> None:
    assert reason(OSError(errno.ENOSPC, "No space left on device", "a.png")) == (
        "No space left on device"
    )
    assert reason(ValueError("\nfirst line\nsecond")) == "first line"
    assert reason(KeyError()) == "KeyError"
    with pytest.raises(MemoryError):  # says nothing of a file that was read
        reason(MemoryError())


def test_a_machine_that_has_not_enough() -> None:
    allocator = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")
    for error in (MemoryError(), allocator, RuntimeError("CUDA out of memory. Tried to allocate")):
        assert is_out_of_memory(error)
        assert "memory was not enough" in str(out_of_resources(error))
    threads = out_of_resources(RuntimeError("can't start new thread"))
    assert "no further thread or process can be started" in str(threads)
    assert out_of_resources(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
