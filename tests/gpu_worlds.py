"""Small export bundles to build TensorRT plans from, and processes with a fake GPU to do it in."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import CHECKOUT, COMMAND, wide_generator

if TYPE_CHECKING:
    from sceneloom.contract import Contract

FAKE = CHECKOUT / "tests" / "fake_gpu"


def write_engine_bundle(
    folder: Path,
    sizes: tuple[tuple[int, int], ...] = ((64, 96),),
    contract: Contract | None = None,
) -> Path:
    """What `sceneloom engine` reads of an export bundle: graphs, report and reference pictures."""
    from sceneloom.contract import Contract
    from sceneloom.files import file_hash
    from sceneloom.schema import load_schema
    from sceneloom_export.graph import export_onnx
    from sceneloom_export.proof import draw_probe
    from sceneloom_serving.bundle import References, save_references
    from sceneloom_serving.parity import reference_pictures
    from sceneloom_training.networks import GeneratorArchitecture, ServedGenerator
    from sceneloom_training.torch_synthesizer import TorchSynthesizer

    contract = contract or Contract(
        schema=load_schema("cityscapes"), boundaries=True, size_multiple=4
    )
    architecture = GeneratorArchitecture(
        input_channels=contract.input_channels, ngf=4, global_downsamplings=2, global_blocks=1
    )
    generator = wide_generator(architecture, seed=2)
    version = folder / "synthesis" / "1"
    version.mkdir(parents=True)
    export_onnx(ServedGenerator(generator, contract).eval(), version / "model.onnx")
    requests = [draw_probe(contract, *size, seed) for seed, size in enumerate(sizes)]
    pictures = reference_pictures(TorchSynthesizer(generator, contract), requests)
    save_references(References(requests=requests, pictures=pictures), folder)
    hashes = {
        path.relative_to(folder).as_posix(): file_hash(path) for path in sorted(version.iterdir())
    }
    report = {
        "sceneloom": "a test",
        "architecture": dataclasses.asdict(architecture),
        "contract": contract.to_json(),
        "sha256": hashes,
    }
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def fake_gpu(**settings: str) -> dict[str, str]:
    """The environment of a process that sees the fake GPU; names as in tests/fake_gpu."""
    return {**os.environ, "PYTHONPATH": str(FAKE), "FAKE_GPU": "Fake GPU", **settings}


def run_engine(
    model: Path, *flags: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """`sceneloom engine` in a process of its own."""
    return subprocess.run(
        [*COMMAND, "engine", str(model), "--timed-runs", "3", *flags],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )


def run_python(code: str, *arguments: Any, environment: dict[str, str]) -> str:
    """Run a script in a process of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
