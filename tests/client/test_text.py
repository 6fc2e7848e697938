"""Words of other programs end at a word, and say when the machine has not enough."""

from __future__ import annotations

import errno

import pytest

from sceneloom.errors import is_out_of_memory, out_of_resources
from sceneloom.text import AlikeSentences, one_line, reason


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


def test_files_of_one_reason_make_one_sentence() -> None:
    alike = AlikeSentences(most=2, most_names=2)
    for name, pixels in (("a", "1 pixel"), ("b", "1,200 pixels"), ("c", "5 pixels"), ("d", "0")):
        alike.add(f"maps/{name}.png: unknown label 9 ({pixels})")
    alike.add("maps/a.png: unknown label 99 (1 pixel)")  # the third reason
    for name in ("e", "f", "g"):
        alike.add(f"maps/{name}.png: unknown label 9 (3 pixels)")
    assert alike.lines() == [
        "maps/a.png: unknown label 9 (1 pixel); the same reason for 5 more (maps/b.png, "
        "maps/c.png, ...)",
        "maps/d.png: unknown label 9 (0)",
    ]
    alike = AlikeSentences()
    for name in ("a_look0: maps/a.png", "a_look1: maps/a.png", "b_look0: maps/b.png"):
        alike.add(f"{name}: the file is empty")
    assert alike.lines() == [
        "a_look0: maps/a.png: the file is empty; the same reason for 2 more (a_look1, b_look0)"
    ]
    alike = AlikeSentences()
    alike.add("the settings do not fit")
    alike.add("the settings do not fit either")
    assert alike.lines() == ["the settings do not fit", "the settings do not fit either"]
