"""What ends `sceneloom render`: a sentence, and a code by which a scheduler knows whether to try
again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_triton import FakeTriton, Running
from rendering_fakes import DictSink, ListSource, map_pair, png, street_maps

from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.errors import OutOfResourcesError, out_of_resources
from sceneloom.rendering.items import Written
from sceneloom.rendering.loading import Loader
from sceneloom.rendering.plan import engine_address
from sceneloom.rendering.run import Plan, RenderRun
from sceneloom.rendering.settings import RenderSettings
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport
from sceneloom.text import reason
from sceneloom.triton.client import TritonSynthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
Start = Callable[..., Running]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, values in zip(("test_label", "test_inst"), map_pair(0), strict=True):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").write_bytes(png(values))
    return tmp_path / "data"


class Draining(FakeTriton):
    """A server that has begun to stop: it knows the model, which has no version any more."""

    said = "Request for unknown model: 'synthesis' has no available versions"

    def ModelConfig(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.NOT_FOUND, self.said)


class Unloaded(Draining):
    """A server whose repository has the model, and which has not loaded it."""

    said = "Request for unknown model: 'synthesis' is not found"


@pytest.mark.parametrize("servicer", [Draining, Unloaded])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_server_that_drains_before_the_first_answer_is_no_server(
    start_server: Start,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    servicer: type[FakeTriton],
    more: list[str],
) -> None:
    url = start_server(CONTRACT, servicer=servicer).url
    code = main(["render", str(data), str(tmp_path / "out"), "--url", url, "--log", "none", *more])
    assert code == 3
    assert servicer.said in capsys.readouterr().err  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


def test_a_model_that_never_was_is_a_mistake_and_the_others_are_named(
    start_server: Start, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = start_server(CONTRACT).url
    arguments = [str(data), str(tmp_path / "out"), "--url", url, "--log", "none"]
    assert main(["render", *arguments, "--model", "nope"]) == 1
    assert "unknown model; the server has synthesis" in capsys.readouterr().err


def test_a_place_that_vanishes_is_4(
    start_server: Start, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    class Moves(FakeTriton):
        def ModelInfer(self, request: Any, context: Any) -> Any:
            if out.exists():
                out.rename(tmp_path / "elsewhere")
            return super().ModelInfer(request, context)

    arguments = ["render", str(data), str(out), "--log", "none", "--transport", "grpc", "--url"]
    assert main([*arguments, start_server(CONTRACT, servicer=Moves).url]) == 4
    assert "was removed or moved while the run was on; the same" in capsys.readouterr().err
    url = start_server(CONTRACT).url
    assert main([*arguments, url]) == 0
    assert main([*arguments, url, "--verify"]) == 0


def test_a_manifest_without_a_map_is_no_success(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["render", str(data), str(tmp_path / "out"), "--verify"]
    assert main(arguments) == 1
    assert "no such manifest" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.sqlite").touch()
    assert main(arguments) == 1
    assert "manifest.sqlite: is empty" in capsys.readouterr().err


def test_threads_that_cannot_be_started_are_4(
    start_server: Start, data: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, threading; from sceneloom.cli import main; threading.stack_size(1 << 46); "
        "sys.exit(main(sys.argv[1:]))"
    )
    url = start_server(CONTRACT).url
    arguments = ["render", str(data), str(tmp_path / "out"), "--log", "none", "--url", url]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 4
    assert "no further thread" in done.stderr
    assert "Traceback" not in done.stderr


class FullSink(DictSink):
    """A place whose pictures find no memory."""

    def put(self, key: str, data: bytes, tag: Any) -> list[Written]:
        raise MemoryError


class FullSource(ListSource):
    """Maps that end where no thread can be started."""

    def __iter__(self) -> Any:
        yield from self.items[:20]
        raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("sink", "source", "said"),
    [
        (FullSink(), street_maps(20), "memory was not enough"),
        (DictSink(), FullSource(street_maps(30).items), "no further thread"),
    ],
)
def test_a_machine_that_is_full_ends_the_run(
    tmp_path: Path, sink: DictSink, source: ListSource, said: str
) -> None:
    with TritonSynthesizer("fake", transport=FakeTransport(CONTRACT)) as synthesizer:
        plan = Plan(
            source=lambda contract: source,
            addresses=[engine_address(synthesizer)],
            settings=RenderSettings(),
            sink=sink,
            manifest=tmp_path / "m",
        )
        with pytest.raises(OutOfResourcesError, match=said), RenderRun(plan) as run:
            list(run)


def test_a_map_without_memory_for_it_is_not_called_damaged() -> None:
    def choose(*_: Any) -> Any:
        raise MemoryError

    loader = Loader(CONTRACT, RenderSettings(), choose)
    with pytest.raises(OutOfResourcesError, match=r"0000\.png: not enough memory"):
        loader.prepare(loader.load(street_maps(1).items[0]))
    with pytest.raises(MemoryError):
        reason(MemoryError())
    assert out_of_resources(RuntimeError("something else")) is None


def test_another_programs_error_ends_at_a_word() -> None:
    assert reason(ValueError("one\ntwo")) == "one"
    assert reason(ValueError()) == "ValueError"
    short = reason(ValueError("word " * 100))
    assert len(short) <= 304
    assert short.endswith("word ...")
