"""Which engine serves: measured with hand-written engines, remembered, and measured anew."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sceneloom.contract import Contract
from sceneloom.errors import EngineError, ServerStartError
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.request import Padding, Request
from sceneloom.schema import load_schema
from sceneloom.synthesizer import Synthesizer
from sceneloom_serving.bundle import References, load_references, save_references
from sceneloom_serving.choice import (
    Known,
    Measured,
    choose_engine,
    fastest,
    first_of_the_fastest,
    measure_engines,
    preferred_to,
    recall,
    what_is_known,
)
from sceneloom_serving.engines import ENGINES, EngineSpec, get_engine, open_engine, unavailable
from sceneloom_serving.parity import Precision, PrecisionClass

CONTRACT = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=2)
HASH = "ab" * 32


class Painter(Synthesizer):
    """Paints the picture that the references have, and is as wrong and as slow as it is told."""

    def __init__(self, error: int, seconds: float, batch: int, drift: list[float]) -> None:
        super().__init__(CONTRACT, batch)
        self._error, self._seconds, self._drift = error, seconds, drift

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        time.sleep(self._seconds * self._drift[0])
        self._drift[0] *= self._drift[1]
        image = picture(label_maps)
        image.reshape(-1)[::50] += np.uint8(self._error)
        return image


def picture(label_maps: LabelMap) -> Image:
    image: Image = np.repeat(label_maps[..., None] * np.uint8(20), 3, 3)
    return image


class Bundle:
    """An export bundle with as much of it as choosing needs, and engines that are told what to
    do.
    """

    def __init__(self, folder: Path, maps: int = 2) -> None:
        self.folder = folder
        self.drift = [1.0, 1.0]
        """Times the engines' seconds now, and what each picture multiplies it by."""
        self.version = folder / "synthesis" / "1"
        self.version.mkdir(parents=True)
        (self.version / "model").write_bytes(b"")
        rng = np.random.default_rng(0)
        sizes = [(8, 8)] * (maps - 1) + [(16, 24)]
        drawn = [rng.integers(0, 11, size, np.uint8) for size in sizes]
        requests = [
            Request(label_map=x, instance_map=None, style=None, padding=Padding()) for x in drawn
        ]
        pictures = [picture(x[None]) for x in drawn]
        save_references(References(requests=requests, pictures=pictures), folder)
        self.opened: list[tuple[str, int]] = []
        self.engines: dict[str, EngineSpec] = {}
        self.said: list[str] = []

    def add(
        self,
        name: str,
        *,
        precision: Precision = "fp32",
        error: int = 0,
        seconds: float = 0.0,
        file: str = "model",
        check: Callable[[], None] = lambda: None,
    ) -> Bundle:
        def opened(path: Path, batch: int) -> Synthesizer:
            assert path == self.version / file
            self.opened.append((name, batch))
            return Painter(error, seconds, batch, self.drift)

        self.engines[name] = EngineSpec(
            name=name,
            precision=precision,
            file=file,
            make_file="make it",
            packages=("numpy",),
            gpu=False,
            check=check,
            open=opened,
        )
        return self

    def choose(self, precision: PrecisionClass = "exact") -> str:
        return choose_engine(
            self.folder, HASH, precision=precision, say=self.said.append, engines=self.engines
        )

    def known(self, engine: str) -> Known:
        return what_is_known(self.folder, HASH, engine, self.engines)

    @property
    def names(self) -> list[str]:
        """Engines that were opened so far."""
        return [name for name, _ in self.opened]


def refuse() -> None:
    raise EngineError("this machine has no abacus")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sceneloom" / "engines"


@pytest.fixture
def bundle(tmp_path: Path, cache: Path) -> Bundle:
    return Bundle(tmp_path / "repository")


@pytest.fixture
def both(bundle: Bundle) -> Bundle:
    return bundle.add("slow", seconds=0.005).add("fast")


def test_the_fastest_that_passes_is_chosen(bundle: Bundle) -> None:
    bundle.add("slow", seconds=0.01).add("quick", seconds=0.003).add("wrong", error=2)
    bundle.add("wrong in half", precision="fp16", error=3).add("nowhere", check=refuse)
    assert bundle.choose() == "quick"
    assert bundle.said[0].startswith("trying the exact engines")
    said = {line.split(":")[0]: line for line in bundle.said[1:]}
    assert said.keys() == bundle.engines.keys()
    assert "s a picture; max 0" in said["slow"]
    assert "up to 2 grey levels, 1 is the limit" in said["wrong"]
    assert "3 at the 99.9th percentile" in said["wrong in half"]
    assert said["nowhere"] == "nowhere: this machine has no abacus"
    assert "nowhere" not in bundle.names


def test_limits_are_those_of_the_precision(bundle: Bundle) -> None:
    bundle.add("full", seconds=0.005).add("half", precision="fp16", error=1)
    assert bundle.choose() == "half"
    with pytest.raises(EngineError, match="no engine 'half'; choose one of"):
        get_engine("half")  # only `engines` has it


@pytest.fixture
def proven(tmp_path: Path, cache: Path) -> Bundle:
    """With as many reference maps as a fast precision is proven on."""
    bundle = Bundle(tmp_path / "proven", maps=8)
    return bundle.add("full", seconds=0.005).add("brain", precision="bf16", error=3)


def test_what_is_fast_serves_only_if_it_is_asked_for(proven: Bundle) -> None:
    assert proven.choose() == "full"
    assert proven.names == ["full"]  # what cannot be chosen is not measured
    assert proven.choose("fast") == "brain"
    assert proven.choose() == "full"  # each is remembered
    assert len(proven.opened) == 3


def test_what_is_fast_is_proven_with_a_margin_on_enough_maps(
    proven: Bundle, bundle: Bundle
) -> None:
    proven.add("brain", precision="bf16", error=4)  # within its limit, not its proof
    assert proven.choose("fast") == "full"
    assert "brain differs from PyTorch by 4 at the 99.9th percentile, 3 is" in proven.said[-1]
    bundle.add("full", seconds=0.005).add("brain", precision="bf16")
    assert bundle.choose("fast") == "full"
    assert "brain: bf16 is proven on 8 maps at least, and this bundle has 2" in bundle.said[-1]


def test_what_is_known_of_the_engine_that_serves(proven: Bundle) -> None:
    nothing = proven.known("full")
    assert nothing.difference == "not measured"
    assert nothing.fast == "not measured here (sceneloom runtimes REPOSITORY --measure)"
    proven.choose()
    assert proven.known("full").difference.startswith("max 0, 99.9th percentile 0")
    proven.choose("fast")
    fast = proven.known("full").fast
    assert fast.startswith("brain, ")
    assert "times as fast, differs by max 3, 99.9th percentile 3" in fast
    brain = proven.known("brain")
    assert brain.fast == "serves"
    assert brain.difference.startswith("max 3")
    proof = {
        "left_out": {"bf16": "overflows"},
        "engines": {"other": {"parity": {"max": 1, "p999": 0, "mean": 0, "psnr": None}}},
    }
    (proven.folder / "report.json").write_text(json.dumps({"proof": proof}))
    assert proven.known("full").fast == "bf16: overflows"
    proven.add("other")
    assert proven.known("other").difference.endswith(" at export")


def test_nothing_fast_that_is_faster(proven: Bundle) -> None:
    proven.add("full").add("brain", precision="bf16", seconds=0.005)
    assert proven.choose("fast") == "full"
    assert proven.known("full").fast == "nothing: no fast engine is faster here"


def test_equally_fast_engines_are_taken_in_a_fixed_order() -> None:
    assert first_of_the_fastest({"first": [1.04], "second": [1.0], "third": [1.0]}) == "first"
    assert first_of_the_fastest({"first": [1.06], "second": [1.04], "third": [1.0]}) == "second"
    assert first_of_the_fastest({"only": [0.0]}) == "only"
    assert first_of_the_fastest({"first": [1.2] * 10, "second": [1.0] * 9 + [2.0]}) == "second"
    unclear = {"first": [1.2] * 10, "second": [1.0] * 8 + [2.0] * 2}
    assert first_of_the_fastest(unclear) == "first"


def test_engines_that_are_not_clearly_faster_are_named(bundle: Bundle) -> None:
    def measured(rounds: list[float]) -> list[Measured]:
        """`second` is preferred, and `brain` is of another class."""
        times = {"first": rounds, "brain": [0.1] * 10, "second": [1.2] * 10}
        return [
            Measured(engine=name, seconds=statistics.median(taken), rounds=tuple(taken))
            for name, taken in times.items()
        ] + [Measured(engine="broken", reason="broken")]

    bundle.add("first").add("second").add("brain", precision="bf16").add("broken")
    unclear, clear = measured([1.0] * 8 + [2.0] * 2), measured([1.0] * 9 + [2.0])
    for rounds, chosen, others in ((unclear, "second", ["first"]), (clear, "first", [])):
        assert fastest(rounds, engines=bundle.engines) == chosen
        assert preferred_to(chosen, rounds, engines=bundle.engines) == others


@pytest.mark.slow
def test_ten_choices_between_equally_fast_engines_are_the_same(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.add("first", seconds=0.004).add("second", seconds=0.00404)
    chosen = set()
    for number in range(10):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(number)))
        chosen.add(bundle.choose())
    assert chosen == {"second"}


def test_of_equally_fast_engines_the_most_exact_serves(proven: Bundle) -> None:
    proven.add("full", seconds=0.00404).add("brain", precision="bf16", seconds=0.004)
    assert proven.choose("fast") == "full"


def test_a_machine_that_gets_slower_does_not_decide(bundle: Bundle) -> None:
    bundle.add("slower", seconds=0.005).add("quicker", seconds=0.003)
    bundle.drift[1] = 1.02  # one after the other, the second would be the slower one
    assert bundle.choose() == "quicker"


def test_none_that_passes_is_an_error_with_every_reason(bundle: Bundle, cache: Path) -> None:
    bundle.add("wrong", error=9).add("nowhere", check=refuse).add("fileless", file="model.plan")
    with pytest.raises(EngineError) as caught:
        bundle.choose()
    for part in ("wrong differs from PyTorch", "no abacus", "the bundle has no model.plan: make"):
        assert part in str(caught.value)
    assert not cache.exists()


def test_batches_are_proven_where_they_will_be_served(bundle: Bundle) -> None:
    bundle.add("one")
    measured = measure_engines(
        bundle.version, load_references(bundle.folder), max_batch_size=4, engines=bundle.engines
    )
    assert bundle.opened == [("one", 4)]
    assert fastest(measured, engines=bundle.engines) == "one"
    assert measured[0].parity is not None
    assert measured[0].to_json()["parity"]["max"] == 0


def test_choice_is_remembered(both: Bundle, cache: Path) -> None:
    assert both.choose() == "fast"
    assert both.names == ["slow", "fast"]
    assert both.choose() == "fast"
    assert both.names == ["slow", "fast"]
    assert recall(HASH, both.version, both.engines) == "fast"
    assert recall("cd" * 32, both.version, both.engines) is None  # another bundle
    (file,) = cache.iterdir()
    content = json.loads(file.read_text())
    assert content["bundle_hash"] == HASH
    assert content["precision"] == "exact"
    assert content["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert content["machine"]["versions"] == {"numpy": np.__version__}  # of the engines' rows
    assert content["available"] == ["slow", "fast"]
    assert content["measured"]["slow"]["seconds"] >= 0.005


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"{",
        lambda content: b"\xff\xfe\x00",
        lambda content: b"[]",
        lambda content: b"null",
        lambda content: json.dumps({**content, "engine": ["fast"]}).encode(),
        lambda content: json.dumps({**content, "engine": "turbo"}).encode(),
        lambda content: json.dumps({**content, "engine": None}).encode(),
        lambda content: json.dumps({**content, "sceneloom": "0.0.1"}).encode(),
        lambda content: json.dumps({**content, "available": []}).encode(),
        lambda content: json.dumps(
            {**content, "machine": {**content["machine"], "cpu": "another"}}
        ).encode(),
        lambda content: json.dumps({"engine": "fast"}).encode(),
    ],
)
def test_damaged_or_foreign_memory_means_measuring_anew(
    both: Bundle, cache: Path, damage: Callable[[dict[str, Any]], bytes]
) -> None:
    both.choose()
    (file,) = cache.iterdir()
    good = json.loads(file.read_text())
    file.write_bytes(damage(good))
    assert recall(HASH, both.version, both.engines) is None
    assert both.choose() == "fast"
    assert both.names == ["slow", "fast"] * 2
    assert json.loads(file.read_text())["engine"] == "fast"  # and it is mended
    assert [path.name for path in cache.iterdir()] == [file.name]


def test_other_cores_are_another_machine(both: Bundle, cache: Path) -> None:
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("needs two cores")
    both.choose()
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert both.choose() == "fast"
    finally:
        os.sched_setaffinity(0, cores)
    assert both.names == ["slow", "fast"] * 2
    assert len(list(cache.iterdir())) == 2


def test_runtime_that_was_removed_or_came_means_measuring_anew(both: Bundle) -> None:
    assert both.choose() == "fast"
    both.add("fast", check=refuse)
    assert both.choose() == "slow"
    both.add("faster", file="model.plan").add("slow", seconds=0.01)
    count = len(both.opened)
    assert both.choose() == "slow"
    assert len(both.opened) == count  # there is no plan
    (both.version / "model.plan").write_bytes(b"")
    assert both.choose() == "faster"
    (both.version / "model.plan").unlink()
    assert both.choose() == "slow"


def test_cache_that_cannot_be_written_is_no_error(
    both: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/sceneloom"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        assert both.choose() == "fast"
        assert recall(HASH, both.version, both.engines) is None


def test_home_that_there_is_not_is_no_error(both: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of a number alone, as in containers, has none."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    assert both.choose() == "fast"
    assert recall(HASH, both.version, both.engines) is None


def test_precisions_that_the_judge_refused_are_not_tried(both: Bundle) -> None:
    both.add("half", precision="fp16")
    proof = {"left_out": {"fp16": "float16 would overflow"}}
    (both.folder / "report.json").write_text(json.dumps({"proof": proof}))
    assert both.choose() in ("fast", "slow")
    assert "half" not in both.names
    assert "half: float16 would overflow" in both.said


def test_a_choice_that_is_refused_since_is_made_anew(both: Bundle) -> None:
    assert both.choose() == "fast"
    proof = {"left_out": {"fp32": "differs"}}
    (both.folder / "report.json").write_text(json.dumps({"proof": proof}))
    with pytest.raises(EngineError, match="fast: differs"):
        both.choose()


def test_other_reference_pictures_are_measured_anew(both: Bundle) -> None:
    assert both.choose() == "fast"
    tried = len(both.said)
    both.choose()
    assert len(both.said) == tried  # remembered
    arrays = dict(np.load(both.folder / "references.npz"))
    np.savez(both.folder / "references.npz", **arrays)  # the same pictures in other bytes
    both.choose()
    assert len(both.said) > tried


@pytest.mark.parametrize("report", ["", "[]", '{"proof": 1}', '{"proof": {"left_out": []}}'])
def test_unreadable_report_leaves_nothing_out(both: Bundle, report: str) -> None:
    (both.folder / "report.json").write_text(report)
    assert both.choose() == "fast"


def test_bundle_without_reference_pictures(both: Bundle) -> None:
    (both.folder / "references.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ServerStartError, match=r"references\.npz: damaged"):
        both.choose()
    (both.folder / "references.npz").unlink()
    with pytest.raises(ServerStartError, match=r"references\.npz: missing"):
        both.choose()


def test_unknown_engine_is_named_beside_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no engine 'openvino'; choose one of onnxruntime-fp32, "):
        open_engine("openvino", tmp_path)


def test_engine_whose_file_is_missing_names_what_makes_it(tmp_path: Path) -> None:
    int8 = ENGINES["openvino-int8"]
    reason = "the bundle has no int8.onnx: sceneloom export --precision fast"
    assert unavailable(int8, tmp_path) == reason
    assert unavailable(int8) is None
    with pytest.raises(EngineError, match=f"openvino-int8: {reason}"):
        open_engine("openvino-int8", tmp_path)


@pytest.mark.parametrize(
    ("name", "without", "line"),
    [
        ("openvino-fp32", "openvino", "pip install 'sceneloom[serve]'"),
        ("openvino-bf16", "openvino", "pip install 'sceneloom[serve]'"),
        ("onnxruntime-fp32", "onnxruntime", "pip install 'sceneloom[serve]'"),
        ("tensorrt-fp16", "tensorrt", "pip install 'sceneloom[gpu]'"),
        ("onnxruntime-cuda-fp16", "onnxruntime", "pip install"),
    ],
)
def test_engine_whose_package_is_missing_names_the_pip_line(
    name: str, without: str, line: str
) -> None:
    # In a process of its own, in which one package is not there.
    code = (
        "import importlib.util as u; f = u.find_spec\n"
        f"u.find_spec = lambda n: None if n == {without!r} else f(n)\n"
        "from sceneloom_serving.engines import ENGINES, unavailable\n"
        f"print(unavailable(ENGINES[{name!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert without in done.stdout
    assert line in done.stdout
