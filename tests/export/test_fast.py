"""`--precision fast`: what is proven, on which maps, and what serves then.

The network keeps the limits because its pictures are pale.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support import ServeCommand, run_command, wide_generator

from sceneloom.contract import Contract
from sceneloom.schema import load_schema
from sceneloom_export.bundle import Exported, export_bundle
from sceneloom_export.proof import KINDS, draw_kinds, reference_maps
from sceneloom_export.settings import ExportSettings
from sceneloom_serving.bundle import load_references
from sceneloom_serving.choice import choose_engine
from sceneloom_serving.engines import ENGINES
from sceneloom_serving.openvino_runtime import computes_bfloat16
from sceneloom_serving.parity import LEAST_MAPS
from sceneloom_training.checkpoint import save_checkpoint
from sceneloom_training.networks import GeneratorArchitecture

CONTRACT = Contract(schema=load_schema("helen"), boundaries=True, size_multiple=2)
PALE = 0.05
"""Of the contrast that random weights give: errors shrink with it."""


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An export of everything."""
    folder = tmp_path_factory.mktemp("fast")
    generator = wide_generator(
        GeneratorArchitecture(input_channels=12, ngf=4, global_downsamplings=1, global_blocks=1),
        seed=0,
    )
    generator.head[1].weight.mul_(PALE)
    save_checkpoint(folder / "checkpoint", generator, CONTRACT, {})
    return export_bundle(
        folder / "checkpoint",
        folder / "repository",
        largest=(96, 96),
        export=ExportSettings(precision=("fast",)),
    )


def test_what_precision_means() -> None:
    def meant(*names: str) -> tuple[str, ...]:
        return ExportSettings(precision=names).precisions  # type: ignore[arg-type]

    assert ExportSettings().precisions == meant("exact") == ("fp32", "fp16")
    assert meant("fast") == meant("exact", "fast") == ("fp32", "fp16", "bf16", "int8")
    assert meant("fp32") == meant() == ("fp32",)
    assert meant("int8", "fp32") == meant("int8") == ("fp32", "int8")
    assert meant("exact", "bf16") == ("fp32", "fp16", "bf16")
    assert ExportSettings(precision=("fp32", "bf16")).served == "exact"
    assert ExportSettings(precision=("fast",)).served == "fast"


@pytest.mark.slow
def test_fast_is_proven_on_maps_of_different_kinds(fast: Exported) -> None:
    references = load_references(fast.repository)
    assert len(references.requests) == 3 + len(KINDS) + 1 >= LEAST_MAPS
    assert {judged.precision for judged in fast.verdicts} == {"fp16", "bf16", "int8"}
    assert [judged.reason for judged in fast.verdicts] == [None] * 3
    assert (fast.repository / "synthesis" / "1" / "int8.onnx").is_file()
    assert fast.known.difference.startswith("max ")


def test_every_kind_is_another_and_fits_every_model() -> None:
    maps = draw_kinds(CONTRACT, 64, 96, seed=0)
    assert len(maps) == len(KINDS) >= LEAST_MAPS
    assert len({one.label_map.tobytes() for one in maps}) == len(maps)
    again = draw_kinds(CONTRACT, 64, 96, seed=0)
    assert all(np.array_equal(a.label_map, b.label_map) for a, b in zip(maps, again, strict=True))
    assert all(len(np.unique(one.label_map)) > 1 for one in maps)
    styled = Contract(
        schema=load_schema("cityscapes"), boundaries=True, style_channels=3, size_multiple=32
    )
    for one in draw_kinds(styled, 64, 128, seed=0):
        assert one.style is not None
        assert one.instance_map is not None
        assert one.instance_map.max() < 256
    plain = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=2)
    assert all(one.instance_map is None for one in draw_kinds(plain, 8, 8, seed=0))


def test_kinds_are_drawn_for_fast_alone_at_a_moderate_size_or_the_smallest_served() -> None:
    streets = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=32)
    assert len(reference_maps(streets, (1024, 2048), [])) == 4
    kinds = reference_maps(streets, (1024, 2048), [], kinds=True)
    assert len(kinds) == 3 + len(KINDS) + 3 + 1
    assert [one.label_map.shape for one in kinds[3:-1]] == [(256, 512)] * (len(KINDS) + 3)
    assert kinds[-1].label_map.shape == (1024, 2048)
    small = reference_maps(streets, (64, 96), [], kinds=True)
    assert {one.label_map.shape for one in small[3:-1]} == {(64, 96)}
    fixed = Contract(
        schema=load_schema("helen"), boundaries=True, size_multiple=2, sizes=((64, 64), (16, 32))
    )
    found = reference_maps(fixed, (1024, 2048), [], kinds=True)
    assert {one.label_map.shape for one in found[2:-1]} == {(16, 32)}


@pytest.mark.slow
@pytest.mark.triton
def test_serve_is_exact_unless_fast_is_asked_for(
    fast: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = run_command("runtimes", fast.repository, "--measure", "--json-lines")
    measured = {one["engine"]: one for one in map(json.loads, done.stdout.splitlines())}
    if computes_bfloat16():
        assert measured["openvino-bf16"]["reason"] is None
    (exact,) = [name for name, one in measured.items() if one["chosen"]]
    (quickest,) = [name for name, one in measured.items() if one["chosen_fast"]]
    assert ENGINES[exact].precision == "fp32"
    with ServeCommand(fast.repository) as serve:
        assert f'engine={exact} precision=fp32 difference="max ' in serve.ready
        word = "nothing: no fast engine" if quickest == exact else f"{quickest}, "
        assert f'fast="{word}' in serve.ready
    with ServeCommand(fast.repository, "--engine", "openvino-int8") as serve:
        assert "engine=openvino-int8 precision=int8 " in serve.ready
        assert 'fast="serves"' in serve.ready
    with ServeCommand(fast.repository, "--precision", "fast") as serve:
        assert f"engine={quickest} " in serve.ready


@pytest.mark.slow
@pytest.mark.slow  # wants a machine that does little else
def test_ten_choices_by_real_engines_are_the_same(
    fast: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = set()
    for number in range(10):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(number)))
        chosen.add(choose_engine(fast.repository, fast.contract.bundle_hash))
    assert len(chosen) == 1
