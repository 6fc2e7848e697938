"""Regions of shared memory: their names, their memory, and what is left when a process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from sceneloom.files import SHARED_MEMORY, is_ownerless
from sceneloom.triton.shared_memory import Region, new_region_prefix, sweep_regions

MAKE = """
import os, sys, time
from sceneloom.triton.shared_memory import Region, new_region_prefix
region = Region(new_region_prefix() + "1", 10)
print(region.name, flush=True)
"""


def child(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", MAKE + code], stdout=subprocess.PIPE, text=True)


def name_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def gone(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=30)


def test_arrays_come_back_as_they_were() -> None:
    region = Region(new_region_prefix() + "1", 3_000_000)
    assert region.size == 3 << 20
    assert (SHARED_MEMORY / region.name).stat().st_size == region.size
    assert (SHARED_MEMORY / region.name).stat().st_mode & 0o777 == 0o600
    whole = np.random.default_rng(0).integers(0, 2**31, (2, 40, 60), np.int32)
    for array in (whole, whole[:, ::2, ::-1], whole.astype(np.float32).T, whole.astype(np.uint8)):
        view = region.view(64, array.dtype, array.shape)
        view[...] = array
        assert (region.view(64, array.dtype, array.shape) == array).all()
    region.remove()
    region.remove()
    assert not (SHARED_MEMORY / region.name).exists()
    region.view(0, whole.dtype, whole.shape)[...] = whole  # open memory stays


def test_names_cannot_be_guessed_and_say_whose_they_are() -> None:
    first, second = new_region_prefix(), new_region_prefix()
    assert first.startswith(f"sceneloom-{os.getpid()}-")
    assert first.split("-")[-2] != second.split("-")[-2]
    assert len(first.split("-")[-2]) == 16
    assert not is_ownerless(first + "1")
    parts = first.split("-")
    dead = "-".join([parts[0], "999999999", *parts[2:]]) + "1"
    assert is_ownerless(dead)
    elsewhere = "-".join([parts[0], "999999999", parts[2], "1", *parts[4:]]) + "1"
    assert not is_ownerless(elsewhere)  # another pid namespace


def test_a_region_of_a_server_is_left_alone() -> None:
    first = new_region_prefix().split("-")
    name = "-".join([first[0], "999999999", *first[2:]]).replace("-client-", "-") + "1"
    assert is_ownerless(name)
    region = Region(name, 10)
    assert name not in sweep_regions()
    assert (SHARED_MEMORY / name).exists()
    region.remove()


def test_more_than_there_is() -> None:
    name = new_region_prefix() + "1"
    with pytest.raises(OSError, match=r"No space|too large|Cannot allocate"):
        Region(name, 1 << 50)
    assert not (SHARED_MEMORY / name).exists()


def test_a_name_that_is_taken_is_left_alone() -> None:
    region = Region(new_region_prefix() + "1", 10)
    with pytest.raises(FileExistsError):
        Region(region.name, 10)
    assert (SHARED_MEMORY / region.name).exists()
    region.remove()


def test_a_process_that_ends_removes_its_regions() -> None:
    process = child("")
    name = name_of(process)
    gone(process)
    assert not (SHARED_MEMORY / name).exists()


def test_a_forked_child_that_ends_leaves_its_parents_regions() -> None:
    process = child(
        "if os.fork() == 0: sys.exit()\n"
        "os.wait()\n"
        "print(os.path.exists('/dev/shm/' + region.name), flush=True)"
    )
    name = name_of(process)
    assert name_of(process) == "True"
    gone(process)
    assert not (SHARED_MEMORY / name).exists()


def test_what_a_killed_process_leaves_is_swept() -> None:
    process = child("time.sleep(60)")
    name = name_of(process)
    assert name not in sweep_regions()
    os.kill(process.pid, signal.SIGKILL)
    gone(process)
    assert (SHARED_MEMORY / name).exists()
    assert name in sweep_regions()
    assert not (SHARED_MEMORY / name).exists()
