"""The log of a run: log.jsonl for machines, TensorBoard, and a progress bar."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from sceneloom.pictures import write_image
from sceneloom.text import printable
from sceneloom_training.progress_bar import progress_bar
from sceneloom_training.run_folder import LOG, PICTURES

QUIET_SECONDS = 8.0  # seconds between lines where stderr is no terminal


class RunLog:
    """The log of one run, a context manager."""

    def __init__(self, root: Path, *, done: int, last: int, images_per_step: int) -> None:
        """Open it in a run's folder, after `done` of `last` steps."""
        from torch.utils.tensorboard import SummaryWriter

        self._root = root
        self._log = (root / LOG).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(root / "tensorboard"), purge_step=done + 1)
        self._progress = progress_bar()
        self._task = self._progress.add_task("training", total=last, completed=done, said="")
        self._images_per_step, self._last = images_per_step, last
        self._shown = time.perf_counter()
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._since = time.perf_counter()

    def __enter__(self) -> Self:
        # On a full disk TensorBoard's writing thread prints a traceback, and raises the same error
        # again in the next call.
        self._excepthook = threading.excepthook
        threading.excepthook = self._but_for_os_errors
        self._progress.start()
        self._since = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
        try:
            self._board.close()
        finally:
            threading.excepthook = self._excepthook
            self._log.close()

    def _but_for_os_errors(self, failed: threading.ExceptHookArgs) -> None:
        package = type(failed.thread).__module__.partition(".")[0]
        if not (isinstance(failed.exc_value, OSError) and package == "tensorboard"):
            self._excepthook(failed)

    def count(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Note a step's losses without writing them or waiting for a GPU."""
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._steps += 1
        self._progress.update(self._task, completed=step)

    def write(self, step: int, epoch: float, learning_rate: float, *, left_out: int = 0) -> None:
        """Write the means since the last entry, and the number of samples left out, if any."""
        if not self._steps:
            return
        means = {name: float(value) / self._steps for name, value in self._sums.items()}
        seconds = time.perf_counter() - self._since
        rate = self._steps * self._images_per_step / seconds
        values = {"epoch": round(epoch, 4), "learning_rate": learning_rate, **means}
        counts = {"samples_left_out": left_out} if left_out else {}
        self.entry(step, {**values, "images_per_second": round(rate, 4), **counts})
        self._progress.update(self._task, said=f"{rate:.2f} images/s")
        quiet = time.perf_counter() - self._shown
        if not self._progress.console.is_terminal and quiet >= QUIET_SECONDS:
            left = (self._last - step) * self._images_per_step / rate
            self.say(f"step {step} of {self._last}, {rate:.2f} images/s, about {left:.0f} s left")
            self._shown = time.perf_counter()
        self._sums, self._steps, self._since = {}, 0, time.perf_counter()

    def left_out(self, step: int, name: str, why: str) -> None:
        """Name a sample that is left out, on stderr and in log.jsonl."""
        self.say(f"left out: {name}, a broken sample ({why})")
        self._log.write(json.dumps({"step": step, "left_out": name, "why": why}) + "\n")
        self._log.flush()

    def entry(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line of log.jsonl and TensorBoard's scalars."""
        self._log.write(json.dumps({"step": step, **values}) + "\n")
        self._log.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: npt.NDArray[np.uint8]) -> None:
        """Write a picture (uint8 [H, W, 3]) to pictures/ and to TensorBoard."""
        write_image(self._root / PICTURES / f"step-{step:09d}-{name}.jpg", picture)
        self._board.add_image(name, torch.from_numpy(picture), step, dataformats="HWC")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the block's time out of the rate."""
        begun = time.perf_counter()
        yield
        self._since += time.perf_counter() - begun

    def flush(self) -> None:
        """Write everything said so far to the files."""
        self._log.flush()
        self._board.flush()

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._progress.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)
