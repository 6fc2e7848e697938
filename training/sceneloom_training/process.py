"""One process of a training run: its device, its rank, its random states, its stop signals.

torchrun starts several processes and tells each its rank by environment variables:

    torchrun --nproc-per-node 4 -m sceneloom.cli train configs/cityscapes-1024x512.toml --out runs/a
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed
from typing_extensions import Self

from sceneloom import errors
from sceneloom.errors import InputError, SceneLoomError, TrainingError
from sceneloom.text import reason
from sceneloom_training.settings import Device, DeviceChoice, Precision


def saved_error(error: SceneLoomError, step: int) -> SceneLoomError:
    """The same error with the step to resume from."""
    kind = InputError if isinstance(error, InputError) else TrainingError
    return kind(f"{error}; the run is saved at step {step}, and the same command resumes it there")


@contextlib.contextmanager
def training_errors(out: Path, memory: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Turn OSError and lack of memory into TrainingError. `memory` returns sizes and advice."""
    try:
        yield
    except OSError as error:
        raise TrainingError(f"{error.filename or out}: {error.strerror or error}") from None
    except (MemoryError, RuntimeError) as error:
        if not errors.is_out_of_memory(error):
            raise
        sizes, advice = memory()
        raise TrainingError(
            f"memory was not enough {sizes} ({errors.said(error)}); {advice}"
        ) from None


def choose_device(wanted: DeviceChoice, setting: str) -> Device:
    """Choose the device. Raises InputError naming the setting if a wanted GPU is missing."""
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise InputError(f"{setting} is cuda, and PyTorch finds no GPU here: use auto or cpu")
    return "cuda" if has_gpu and wanted != "cpu" else "cpu"


def choose_precision(wanted: Precision, device: torch.device) -> Precision:
    """The precision of convolutions; auto takes bfloat16 where the device has its instructions,
    else float32. PyTorch computes bfloat16 on any processor, without them some 70 times slower.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if has else "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Rank of this process, and how many there are."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number of this process on its machine, and of its GPU."""
    local_size: int = 1
    """Number of processes on this machine."""

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which writes the run's files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process. All call it at the same place."""
        return any(self.gather(flag))

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank. All call it at the same place."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until all processes arrive here."""
        if self.size > 1:
            distributed.barrier()


@contextlib.contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the other processes if torchrun started this one: gloo on CPU, NCCL on GPU."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    try:
        rank = int(os.environ["RANK"])
        local = {"local_size": int(os.environ.get("LOCAL_WORLD_SIZE", "1"))}
        world = World(rank=rank, size=size, local_rank=int(os.environ["LOCAL_RANK"]), **local)
    except KeyError as error:
        raise TrainingError(
            f"WORLD_SIZE is {size} and {error.args[0]} is not set: start with torchrun"
        ) from None
    if device == "cuda":
        torch.cuda.set_device(world.local_rank)
    # gloo as well: objects travel on the CPU.
    try:
        distributed.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
        try:
            yield world
        finally:
            distributed.destroy_process_group()
    except RuntimeError as error:
        text = str(error).strip().splitlines() or [""]
        if isinstance(error, distributed.DistError) or "gloo" in text[0].lower():
            raise errors.LostPeerError(
                f"another process of this run has ended, or is not reached ({reason(error)})"
            ) from None
        raise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a run."""

    step: int
    last: int
    model: Path
    """The newest checkpoint's bundle, or the finished segmenter."""
    stopped_by: int | None
    """Number of the signal that stopped it, in any process, or None."""
    is_main: bool = True
    left_out: int = 0
    """Samples that were not used, by `data.skip_broken`."""


_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_Found = TypeVar("_Found")


class _StopWaiting(BaseException):
    """Raised into a wait. Decoders that catch every Exception let it pass."""


class StopSignals:
    """A context manager that notes SIGTERM and Ctrl-C instead of ending the process."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}
        self._waiting = False

    def __enter__(self) -> Self:
        """Take over the signals, in the main thread alone."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _NUMBERS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def unless_stopped(self, wait: Callable[[], _Found]) -> _Found | None:
        """Wait and return the result. None if a signal comes before or meanwhile."""
        try:
            try:
                self._waiting = True
                return None if self.number is not None else wait()
            finally:
                self._waiting = False
        except _StopWaiting:
            return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for each in _NUMBERS:
            signal.signal(each, signal.SIG_DFL)
        if self._waiting:
            self._waiting = False
            raise _StopWaiting


def seed_random_states(seed: int) -> None:
    """Seed every random state of the process."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_states() -> dict[str, Any]:
    """States of PyTorch (CPU, current GPU), NumPy and Python, as tensors and plain values."""
    legacy: Any = np.random.get_state(legacy=True)
    _, keys, position, has_gauss, gauss = legacy
    version, inner, following = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(inner), following],
    }


def set_random_states(state: dict[str, Any]) -> None:
    """Restore what `random_states` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, inner, following = state["python"]
    random.setstate((version, tuple(inner), following))
