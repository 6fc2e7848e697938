"""Freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEPS = """
import resource, sys
from sceneloom_training.memory import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
bytes(50_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    bytearray(b"x") * 50_000_000
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(word: str) -> tuple[int, int]:
    command = [sys.executable, "-c", STEPS, word]
    kept, faults = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.split()
    return int(kept), int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is on Linux")
def test_kept_memory_is_not_mapped_anew() -> None:
    kept, faults = page_faults("keep")
    assert kept == 1
    assert faults * 4 < page_faults("return")[1]
