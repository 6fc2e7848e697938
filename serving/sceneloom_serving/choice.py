"""Which engine of a bundle serves: the fastest whose pictures are within the limits of its
precision, on this machine.

Every engine that can run here renders the bundle's reference maps; what differs from PyTorch's
pictures by more than its limits is out, the others are timed at the largest map. The choice is
remembered with the facts of the machine and the engines that there were, and made anew where they
or the bundle differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sceneloom import __version__
from sceneloom.artefacts import file_hash
from sceneloom.contract import MODEL_NAME
from sceneloom.errors import EngineError, ParityError, SceneLoomError
from sceneloom.json_text import parse_json
from sceneloom.synthesizer import Request, Synthesizer
from sceneloom_serving.engines import ENGINES, Engine, unavailable
from sceneloom_serving.machine import cache_folder, engine_machine
from sceneloom_serving.parity import Parity, Precision, check_parity, run_parity
from sceneloom_serving.references import REFERENCES_FILE, References, load_references
from sceneloom_serving.verify import REPORT_FILE

ROUNDS = 3
"""Timed pictures of each engine, after those of its parity."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One engine, tried on this machine."""

    engine: str
    """Its name."""
    parity: Parity | None = None
    """Against PyTorch in float32, over all reference maps; None if it did not run."""
    seconds: float | None = None
    """Median time of one picture of the largest map; None if it did not run or did not pass."""
    reason: str | None = None
    """Why it may not serve; None if it may."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "parity": None if self.parity is None else self.parity.to_json(),
            "seconds": self.seconds,
            "reason": self.reason,
        }

    def __str__(self) -> str:
        """One line for people."""
        took = "" if self.seconds is None else f"{self.seconds:.3g} s a picture; "
        return f"{self.engine}: {took}{self.reason or self.parity}"


def measure_engines(
    version: Path,
    references: References,
    *,
    max_batch_size: int = 1,
    without: Mapping[Precision, str] = MappingProxyType({}),
    engines: Mapping[str, Engine] = ENGINES,
) -> list[Measured]:
    """Try every engine of a bundle, one after the other.

    Args:
        version: a version's folder of an export bundle.
        references: maps, and the pictures they must give.
        max_batch_size: most pictures at once.
        without: precisions that are not tried, and why.
        engines: those that there are.
    """
    return [
        Measured(engine=engine.name, reason=without[engine.precision])
        if engine.precision in without
        else _measure(engine, version, references, max_batch_size)
        for engine in engines.values()
    ]


def _measure(
    engine: Engine, version: Path, references: References, max_batch_size: int
) -> Measured:
    reason = unavailable(engine, version)
    if reason is not None:
        return Measured(engine=engine.name, reason=reason)
    try:
        with engine.open(version / engine.file, max_batch_size) as synthesizer:
            parity = run_parity(references.pictures, synthesizer, references.requests)
            try:
                check_parity(parity, engine.precision, engine.name)
            except ParityError as error:
                return Measured(engine=engine.name, parity=parity, reason=str(error))
            seconds = _time(synthesizer, references.requests[-1])
            return Measured(engine=engine.name, parity=parity, seconds=seconds)
    except SceneLoomError as error:
        return Measured(engine=engine.name, reason=str(error))


def _time(synthesizer: Synthesizer, request: Request) -> float:
    arrays = (request.label_map, request.instance_map, request.style)
    batch = [None if array is None else array[None] for array in arrays]
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        synthesizer.run_batch(*batch)  # type: ignore[arg-type]
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def fastest(measured: Sequence[Measured]) -> str:
    """The engine that serves.

    Raises:
        EngineError: none may; the text says why of each.
    """
    may = [m for m in measured if m.seconds is not None]
    if not may:
        reasons = "; ".join(f"{m.engine}: {m.reason}" for m in measured)
        raise EngineError(f"no engine of this bundle can serve here: {reasons}")
    return min(may, key=lambda m: m.seconds or 0.0).engine


def choose_engine(
    repository: Path,
    bundle_hash: str,
    *,
    say: Callable[[str], None] = lambda line: None,
    engines: Mapping[str, Engine] = ENGINES,
) -> str:
    """The engine for a bundle on this machine, remembered or measured now.

    Args:
        repository: an export bundle.
        bundle_hash: of its contract.
        say: is told what is measured, line by line.
        engines: those that there are.

    Returns:
        its name.

    Raises:
        ServerStartError: the bundle has no reference pictures.
        EngineError: no engine can serve here.
    """
    version = repository / MODEL_NAME / "1"
    without = precisions_left_out(repository)
    known = recall(bundle_hash, version, engines)
    if known is not None and engines[known].precision not in without:
        return known
    say("trying the engines of this bundle on this machine, once")
    references = load_references(repository)
    measured = measure_engines(version, references, without=without, engines=engines)
    for one in measured:
        say(str(one))
    return remember(bundle_hash, measured, version, engines)


def precisions_left_out(repository: Path) -> dict[Precision, str]:
    """What export has left out and why: its judge refused it, or nobody asked for it. Nothing where
    there is no readable report.
    """
    try:
        report = parse_json((repository / REPORT_FILE).read_text("utf-8"))
        return {name: str(reason) for name, reason in report["proof"]["left_out"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def remember(
    bundle_hash: str,
    measured: Sequence[Measured],
    version: Path,
    engines: Mapping[str, Engine] = ENGINES,
) -> str:
    """Keep what was measured for this bundle and machine; the engine that serves.

    Args:
        bundle_hash: of the bundle's contract.
        measured: of `measure_engines`.
        version: a version's folder of the bundle.
        engines: those that there are.
    """
    chosen, facts = fastest(measured), _facts(version, engines)
    content = {
        **facts,
        "bundle_hash": bundle_hash,
        "engine": chosen,
        "measured": {m.engine: m.to_json() for m in measured},
    }
    # A home that cannot be written, or that there is none of, costs a measurement at every start.
    with contextlib.suppress(OSError, RuntimeError):
        path = _memory(bundle_hash, facts["machine"])
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        part.replace(path)
    return chosen


def recall(bundle_hash: str, version: Path, engines: Mapping[str, Engine] = ENGINES) -> str | None:
    """The engine that was chosen for this bundle on a machine like this, out of the engines that
    can run now; None if none was.

    Args:
        bundle_hash: of the bundle's contract.
        version: a version's folder of the bundle.
        engines: those that there are.
    """
    facts = _facts(version, engines)
    try:
        content = parse_json(_memory(bundle_hash, facts["machine"]).read_text("utf-8"))
    except (OSError, ValueError, RuntimeError):
        return None
    fits = isinstance(content, dict) and all(content.get(key) == facts[key] for key in facts)
    engine = content.get("engine") if fits else None
    return engine if isinstance(engine, str) and engine in facts["available"] else None


def _facts(version: Path, engines: Mapping[str, Engine]) -> dict[str, Any]:
    """What a choice holds for. Runtimes are installed and removed, and `sceneloom engine` adds
    plans to a bundle, so that the engines that can run are part of it; and so are the pictures that
    they were held against, because the same graphs may be proven at another size.
    """
    references = version.parents[1] / REFERENCES_FILE
    proven = file_hash(references) if references.is_file() else None
    available = [name for name, one in engines.items() if unavailable(one, version) is None]
    return {
        "sceneloom": __version__,
        "machine": engine_machine(),
        "available": available,
        "references": proven,
    }


def _memory(bundle_hash: str, machine: dict[str, Any]) -> Path:
    facts = json.dumps(machine, sort_keys=True).encode()
    name = f"{bundle_hash[:16]}-{hashlib.sha256(facts).hexdigest()[:16]}.json"
    return cache_folder() / "engines" / name
