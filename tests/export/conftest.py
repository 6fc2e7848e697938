"""The graph of a styled generator, exported once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import make_once, wide_generator

from sceneloom.contract import Contract
from sceneloom.schema import load_schema
from sceneloom_export.graph import export_onnx
from sceneloom_training.networks import Generator, GeneratorArchitecture, ServedGenerator


@pytest.fixture(scope="session")
def styled_generator() -> Generator:
    """Boundaries, three channels of style, and an enhancer."""
    architecture = GeneratorArchitecture(
        input_channels=39,
        ngf=4,
        global_downsamplings=2,
        global_blocks=1,
        enhancers=1,
        enhancer_blocks=1,
    )
    return wide_generator(architecture, seed=1)


@pytest.fixture(scope="session")
def styled_graph(run_folder: Path, styled_generator: Generator) -> Path:
    """The folder of its model.onnx, to be copied: all workers share it."""

    def make(folder: Path) -> Path:
        contract = Contract(
            schema=load_schema("cityscapes"), boundaries=True, style_channels=3, size_multiple=8
        )
        export_onnx(ServedGenerator(styled_generator, contract).eval(), folder / "model.onnx")
        return folder

    return make_once(run_folder / "styled", make)
