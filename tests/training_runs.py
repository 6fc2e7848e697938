"""Small training runs: their data, their settings, and real processes that can be signalled.

Importing torch takes seconds, so the processes are forked from one that has done it and nothing
else (`multiprocessing`'s fork server); each then runs `sceneloom`'s own `main`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import cv2
import numpy as np
from support import blocky_maps

if TYPE_CHECKING:
    from sceneloom_training.settings import TrainSettings

SIZE = (32, 32)
"""Height and width of the samples."""


def write_samples(root: Path, count: int, *, layout: str = "pix2pixhd") -> Path:
    """Write samples of 32x32 in pix2pixHD's or the paired layout."""
    rng = np.random.default_rng(5)
    folders = ("label", "inst", "img") if layout == "pix2pixhd" else ("A", "B")
    for folder in folders:
        (root / f"train_{folder}").mkdir(parents=True)
    for index in range(count):
        label_map, instance_map = blocky_maps(*SIZE, seed=index, labels=35)
        photo = rng.integers(0, 256, (*SIZE, 3), np.uint8)
        arrays = {
            "label": label_map,
            "inst": instance_map.astype(np.uint16),
            "img": photo,
            "A": photo[::-1],
            "B": photo,
        }
        for folder in folders:
            cv2.imwrite(str(root / f"train_{folder}" / f"{index}.png"), arrays[folder])
    return root


def small(samples: Path, **sections: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of a run that takes milliseconds a step, by section; what is given wins."""
    settings: dict[str, dict[str, Any]] = {
        "data": {"layout": "pix2pixhd", "root": str(samples)},
        "geometry": {"mode": "crop", "size": "16x16"},
        "generator": {"ngf": 2, "global_downsamplings": 1, "global_blocks": 1},
        "discriminator": {"scales": 1, "ndf": 2, "layers": 1},
        "schedule": {"epochs": 2, "decay_epochs": 2},
        "compute": {"device": "cpu", "workers": 0, "cache": 16},
        "record": {"log_every": 1, "checkpoint_every": 2, "picture_every": 1000},
    }
    for name, given in sections.items():
        settings[name] = settings.get(name, {}) | dict(given)
    return settings


def resolved(settings: Mapping[str, Mapping[str, Any]]) -> TrainSettings:
    """The dataclasses that the sections stand for."""
    from sceneloom_training.settings import TrainSettings

    kinds = get_type_hints(TrainSettings)
    paths = {"root", "vgg", "start_from"}
    return TrainSettings(
        **{
            section: kinds[section](**{k: Path(v) if k in paths else v for k, v in values.items()})
            for section, values in settings.items()
        }
    )


def write_toml(path: Path, settings: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the sections as a configuration file."""

    def text(value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        return repr(value) if isinstance(value, int | float) else f'"{value}"'

    lines = []
    for section, values in settings.items():
        lines += [f"[{section}]", *(f"{name} = {text(value)}" for name, value in values.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def newest_state(run: Path) -> dict[str, Any]:
    """What a resumed run would begin with: the newest checkpoint's state, hash checked."""
    from sceneloom_training.run_folder import RunFolder

    folder = RunFolder(run)
    return folder.load(folder.steps()[-1])


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two states differ by as little as a bit."""
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
        return [] if alike else [where]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in differences(x, y, f"{where}/{i}")]
    return [] if type(a) is type(b) and a == b else [where]


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "sceneloom_training.trainer",
            "sceneloom_training.train_command",
            "torch.utils.tensorboard",
            "torch._dynamo",  # what an optimizer's first step imports
        ]
    )
    return context


class Forked:
    """A function of a module in a process of its own; its return value is the exit code."""

    def __init__(
        self,
        function: Callable[..., int],
        *arguments: Any,
        said: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; what it says goes to the files SAID.out and SAID.err."""
        self._said = said
        self.process = _server().Process(
            target=_call, args=(function, arguments, str(said), dict(environment or {}))
        )
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def printed(self) -> str:
        return Path(f"{self._said}.out").read_text()

    @property
    def errors(self) -> str:
        return Path(f"{self._said}.err").read_text()

    def end(self, number: int) -> int:
        """Send a signal, unless it has ended; the exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return self.wait()

    def wait(self, seconds: float = 60) -> int:
        """The exit code, negative for a signal that ended it."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            os.kill(self.pid, signal.SIGABRT)  # faulthandler says where it stands
            self.process.join(10)
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s: {self.errors}")
        return code

    def wait_for(self, there: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until something is there, while the process runs."""
        end = time.monotonic() + seconds
        while not there():
            assert self.process.is_alive(), self.errors
            assert time.monotonic() < end, "nothing came"
            time.sleep(0.005)


class Command(Forked):
    """`sceneloom ARGUMENTS` in a process of its own."""

    def __init__(self, *arguments: str | Path, **options: Any) -> None:
        super().__init__(command, [str(a) for a in arguments], **options)


def command(arguments: list[str]) -> int:
    """Run `sceneloom ARGUMENTS` here."""
    from sceneloom.cli import main

    return main(arguments)


def world(size: int) -> list[dict[str, str]]:
    """What torchrun puts into the environments of processes that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        {
            "WORLD_SIZE": str(size),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for rank in range(size)
    ]


def steps_logged(run: Path) -> list[int]:
    """Steps of the entries with losses in log.jsonl; a line that is being written is left out."""
    try:
        lines = (run / "log.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [entry["step"] for entry in map(json.loads, lines) if "discriminator" in entry]


def _call(
    function: Callable[..., int], arguments: Any, said: str, environment: dict[str, str]
) -> None:
    for kind, stream in (("out", sys.stdout), ("err", sys.stderr)):
        descriptor = os.open(f"{said}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, stream.fileno())
    faulthandler.enable()
    os.environ.update(environment)
    # As in a process of the user's; a process of the fork server would ask that for its own.
    multiprocessing.set_start_method("fork", force=True)
    import torch

    torch.set_num_threads(1)
    sys.exit(function(*arguments))
