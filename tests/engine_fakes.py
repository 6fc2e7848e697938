"""Engines whose times and pictures are known, for the benchmark's own processes to open."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from sceneloom.contract import Contract
from sceneloom.request import Padding, Request
from sceneloom.schema import load_schema
from sceneloom.synthesizer import Synthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=4)


class FlatEngine(Synthesizer):
    """Every picture is of one grey level: its map's first label."""

    def run_batch(self, label_maps: Any, instance_maps: Any, styles: Any) -> Any:
        if label_maps[0, 0, 0] == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        if label_maps[0, 0, 0] == 21:
            raise Unpicklable("not enough", "memory")
        shape = (*label_maps.shape, 3)
        return np.broadcast_to(label_maps[:, :1, :1, None], shape).astype(np.uint8)


class Unpicklable(Exception):
    """As some runtimes' errors are: it cannot be built of its own arguments."""

    def __init__(self, what: str, of_what: str) -> None:
        super().__init__(f"{what} {of_what}\nand more lines")


def open_flat() -> Synthesizer:
    """Takes two pictures at once."""
    return FlatEngine(CONTRACT, 2)


def open_none() -> Synthesizer:
    """There is no such file."""
    raise FileNotFoundError("there is no model")


def flat_request(label: int) -> Request:
    """A map of one label."""
    shape = (8, 8)
    return Request(
        label_map=np.full(shape, label, np.uint8),
        instance_map=np.zeros(shape, np.int32),
        style=None,
        padding=Padding(),
    )
