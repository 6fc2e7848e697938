"""The engine that serves a bundle: the fastest within the limits of its precision on this machine,
from the exact precisions unless fast ones are requested.

Every engine that can run here renders the bundle's reference maps. Those within their limits are
timed in turn at the largest map; a fixed order decides between equally fast ones. The choice is
remembered with facts of machine, engines and bundle, and made again if one of them differs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from sceneloom import progress
from sceneloom.errors import EngineError, SceneLoomError
from sceneloom.files import file_hash, write_whole
from sceneloom.request import Request, stack
from sceneloom.synthesizer import Synthesizer
from sceneloom.text import counted, parse_json
from sceneloom.version import __version__
from sceneloom_serving import bundle, parity
from sceneloom_serving.bundle import VERSION, References
from sceneloom_serving.engines import ENGINES, EngineSpec, cache_folder, engine_facts, unavailable
from sceneloom_serving.parity import CLASSES, Parity, Precision, PrecisionClass

_LEAST_ROUNDS, _MOST_ROUNDS, _ROUNDS_SECONDS = 5, 20, 1.5
# In its turn an engine renders a few pictures if they take little, and the quickest counts: the
# first one meets threads of the engine before it that are still awake.
_TURN_PICTURES, _TURN_SECONDS = 3, 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One engine, tried on this machine."""

    engine: str
    parity: Parity | None = None
    """Difference from PyTorch over all reference maps, or None if it did not run."""
    seconds: float | None = None
    """Median time of one picture of the largest map, or None if it did not run or pass."""
    reason: str | None = None
    """Reason why it may not serve, or None if it may."""
    rounds: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The measurement as a JSON object, without rounds."""
        found = None if self.parity is None else self.parity.to_json()
        return {"parity": found, "seconds": self.seconds, "reason": self.reason}

    def __str__(self) -> str:
        took = "" if self.seconds is None else f"{self.seconds:.3g} s a picture; "
        return f"{self.engine}: {took}{self.reason or self.parity}"


def measure_engines(
    version: Path,
    references: References,
    *,
    max_batch_size: int = 1,
    without: Mapping[Precision, str] = MappingProxyType({}),
    engines: Mapping[str, EngineSpec] = ENGINES,
) -> list[Measured]:
    """Compare every engine's pictures, then time in turn those that pass, which stay loaded until
    then. `without` is precision -> reason to skip it.
    """
    measured = {
        name: Measured(
            engine=name, reason=without.get(engine.precision) or unavailable(engine, version)
        )
        for name, engine in engines.items()
    }
    able = [name for name, one in measured.items() if one.reason is None]
    with contextlib.ExitStack() as opened:
        passed: dict[str, Synthesizer] = {}
        for name in progress.steps(able, "measure"):
            engine, found, reason = engines[name], None, None
            with contextlib.ExitStack() as failed:
                try:
                    path = version / engine.file
                    running = failed.enter_context(engine.open(path, max_batch_size))
                    found = parity.run_parity(references.pictures, running, references.requests)
                    parity.check_proof(found, engine.precision, name, len(references.requests))
                    passed[name] = running
                    opened.push(failed.pop_all())
                except SceneLoomError as error:
                    reason = str(error)
            measured[name] = Measured(engine=name, parity=found, reason=reason)
        with progress.stage(f"time {counted(len(passed), 'engine')} in turn"):
            times = _time_in_turn(passed, references.requests[-1])
        for name, taken in times.items():
            if isinstance(taken, SceneLoomError):
                measured[name] = Measured(engine=name, reason=str(taken))
            else:
                measured[name] = dataclasses.replace(
                    measured[name], seconds=statistics.median(taken), rounds=tuple(taken)
                )
    return list(measured.values())


def _time_in_turn(
    engines: Mapping[str, Synthesizer], request: Request
) -> dict[str, list[float] | SceneLoomError]:
    """Seconds of one picture in each round, in which a drift of the machine meets all alike."""
    turns: dict[str, list[float]] = {name: [] for name in engines}
    failed: dict[str, list[float] | SceneLoomError] = {}
    batch = stack([request])
    start = time.perf_counter()
    for number in range(_MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and time.perf_counter() - start > _ROUNDS_SECONDS:
            break
        for name in [name for name in engines if name not in failed]:
            taken: list[float] = []
            try:
                while len(taken) < _TURN_PICTURES and sum(taken) < _TURN_SECONDS:
                    before = time.perf_counter()
                    engines[name].run_batch(*batch)
                    taken.append(time.perf_counter() - before)
                turns[name].append(min(taken))
            except SceneLoomError as error:
                failed[name] = error
    return {**turns, **failed}


def fastest(
    measured: Sequence[Measured],
    precision: PrecisionClass = "exact",
    engines: Mapping[str, EngineSpec] = ENGINES,
) -> str:
    """The engine that serves, of equally fast ones the most exact. Raises EngineError."""
    of_class = [m for m in measured if engines[m.engine].precision in CLASSES[precision]]
    may = {m.engine: m.rounds for m in of_class if m.seconds is not None}
    if not may:
        reasons = "; ".join(f"{m.engine}: {m.reason}" for m in of_class)
        raise EngineError(f"no engine of this bundle can serve here: {reasons}")
    order = {name: number for number, name in enumerate(engines)}

    def rank(name: str) -> tuple[int, int]:
        return CLASSES["fast"].index(engines[name].precision), -order[name]

    return first_of_the_fastest({name: may[name] for name in sorted(may, key=rank)})


def preferred_to(
    chosen: str,
    measured: Sequence[Measured],
    precision: PrecisionClass = "exact",
    engines: Mapping[str, EngineSpec] = ENGINES,
) -> list[str]:
    """The engines with a lower median time that `fastest` does not find clearly faster than the
    one it chose.
    """
    seconds = {
        m.engine: m.seconds
        for m in measured
        if m.seconds is not None and engines[m.engine].precision in CLASSES[precision]
    }
    return [name for name, taken in seconds.items() if taken < seconds[chosen]]


def choose_engine(
    repository: Path,
    bundle_hash: str,
    *,
    precision: PrecisionClass = "exact",
    say: Callable[[str], None] = lambda line: None,
    engines: Mapping[str, EngineSpec] = ENGINES,
) -> str:
    """The engine for a bundle on this machine, remembered or measured now. Raises ServerStartError
    without reference pictures, EngineError if none can serve.
    """
    version = repository / VERSION
    without = precisions_left_out(repository)
    known = recall(bundle_hash, version, engines, precision=precision)
    if known is not None and engines[known].precision not in without:
        return known
    say(f"trying the {precision} engines of this bundle on this machine, once")
    tried = {n: one for n, one in engines.items() if one.precision in CLASSES[precision]}
    references = bundle.load_references(repository)
    measured = measure_engines(version, references, without=without, engines=tried)
    for one in measured:
        say(str(one))
    return remember(bundle_hash, measured, version, engines, precision=precision)


def precisions_left_out(repository: Path) -> dict[Precision, str]:
    """Precision -> reason why export left it out, empty without a readable report."""
    left_out = _proof(repository).get("left_out")
    if not isinstance(left_out, dict):
        return {}
    return {name: str(reason) for name, reason in left_out.items()}


def _proof(repository: Path) -> dict[str, Any]:
    """The proof in export's report, empty without a readable one."""
    try:
        proof = parse_json((repository / bundle.REPORT_FILE).read_text("utf-8"))["proof"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return proof if isinstance(proof, dict) else {}


def remember(
    bundle_hash: str,
    measured: Sequence[Measured],
    version: Path,
    engines: Mapping[str, EngineSpec] = ENGINES,
    *,
    precision: PrecisionClass = "exact",
) -> str:
    """Keep measurements of this bundle on this machine. Returns the engine that serves."""
    chosen, facts = fastest(measured, precision, engines), _facts(version, engines)
    content = {
        **facts,
        "bundle_hash": bundle_hash,
        "precision": precision,
        "engine": chosen,
        "measured": {m.engine: m.to_json() for m in measured},
    }
    # A home that is missing or cannot be written costs a measurement at every start.
    with contextlib.suppress(OSError, RuntimeError):
        text = json.dumps(content, indent=1) + "\n"
        write_whole(_memory(bundle_hash, facts["machine"], precision), text.encode())
    return chosen


def recall(
    bundle_hash: str,
    version: Path,
    engines: Mapping[str, EngineSpec] = ENGINES,
    *,
    precision: PrecisionClass = "exact",
) -> str | None:
    """The remembered engine for this bundle on a machine like this, or None."""
    found = _remembered(bundle_hash, version, engines, precision)
    return None if found is None else str(found["engine"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """The serving engine's difference from PyTorch and the gain of `--precision fast`, in words."""

    difference: str
    fast: str


def what_is_known(
    repository: Path, bundle_hash: str, engine: str, engines: Mapping[str, EngineSpec] = ENGINES
) -> Known:
    """Look up an engine's measurements on this machine, or else at export."""
    version, report = repository / VERSION, _proof(repository)
    exact = _remembered(bundle_hash, version, engines, "exact") or {}
    fast = _remembered(bundle_hash, version, engines, "fast") or {}
    difference = "not measured"
    for source, where in ((exact, ""), (fast, ""), (report, " at export")):
        found = _parity(source.get("measured") or source.get("engines"), engine)
        if found is not None:
            difference = f"{found}{where}"
            break
    words = _fast_words(engine, engines, fast, version, precisions_left_out(repository))
    return Known(difference=difference, fast=words)


def known_of(
    engine: str,
    measured: Sequence[Measured],
    version: Path,
    left_out: Mapping[Precision, str],
    engines: Mapping[str, EngineSpec] = ENGINES,
) -> Known:
    """The measurements just made of the engine that serves."""
    by_name = {one.engine: one.to_json() for one in measured}
    fast = {"engine": fastest(measured, "fast", engines), "measured": by_name}
    difference = str(next(one.parity for one in measured if one.engine == engine))
    words = _fast_words(engine, engines, fast, version, left_out)
    return Known(difference=difference, fast=words)


def _fast_words(
    engine: str,
    engines: Mapping[str, EngineSpec],
    fast: Mapping[str, Any],
    version: Path,
    left_out: Mapping[Precision, str],
) -> str:
    if engines[engine].precision not in CLASSES["exact"]:
        return "serves"
    reasons: dict[str, list[str]] = {}
    fast_alone = set(CLASSES["fast"]) - set(CLASSES["exact"])
    for one in (one for one in engines.values() if one.precision in fast_alone):
        reason = left_out.get(one.precision)
        if reason is None and (version / one.file).is_file():
            break
        reasons.setdefault(reason or f"not proven: {one.make_file}", []).append(one.precision)
    else:
        if reasons:  # no fast engine is in the bundle
            parts = (f"{', '.join(dict.fromkeys(p))}: {reason}" for reason, p in reasons.items())
            return "; ".join(parts)
    if fast:
        other, measured = fast["engine"], fast["measured"]
        if engines[other].precision in CLASSES["exact"]:
            return "nothing: no fast engine is faster here"
        times = ""
        with contextlib.suppress(KeyError, TypeError, ZeroDivisionError):
            ratio = measured[engine]["seconds"] / measured[other]["seconds"]
            times = f"{ratio:.2g} times as fast, "
        return f"{other}, {times}differs by {_parity(measured, other)}"
    return "not measured here (sceneloom runtimes REPOSITORY --measure)"


def _parity(measured: Any, engine: str) -> Parity | None:
    """An engine's recorded differences, or None without a readable record."""
    try:
        return Parity.from_json(measured[engine]["parity"])
    except (KeyError, TypeError, ValueError):
        return None


def _remembered(
    bundle_hash: str, version: Path, engines: Mapping[str, EngineSpec], precision: PrecisionClass
) -> dict[str, Any] | None:
    """The content that `remember` kept, if it holds here and now."""
    facts = _facts(version, engines)
    try:
        path = _memory(bundle_hash, facts["machine"], precision)
        content = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError, RuntimeError):
        return None
    fits = isinstance(content, dict) and all(content.get(key) == facts[key] for key in facts)
    engine = content.get("engine") if fits else None
    if not isinstance(engine, str) or engine not in facts["available"]:
        return None
    if engines[engine].precision not in CLASSES[precision]:
        return None
    return dict(content)


def _facts(version: Path, engines: Mapping[str, EngineSpec]) -> dict[str, Any]:
    """Facts that a choice depends on: runtimes, plans and reference pictures may change."""
    references = version.parents[1] / bundle.REFERENCES_FILE
    return {
        "sceneloom": __version__,
        "machine": engine_facts(engines),
        "available": [name for name, one in engines.items() if unavailable(one, version) is None],
        "references": file_hash(references) if references.is_file() else None,
    }


def _memory(bundle_hash: str, machine: dict[str, Any], precision: PrecisionClass) -> Path:
    facts = json.dumps(machine, sort_keys=True).encode()
    name = f"{bundle_hash[:16]}-{hashlib.sha256(facts).hexdigest()[:16]}-{precision}.json"
    return cache_folder() / "engines" / name


_TIE = 1.05  # times that differ by less than this factor count as equal
_AGREE = 0.9  # a clearly faster engine wins this share of the rounds by more than that factor
_Name = TypeVar("_Name")


def first_of_the_fastest(rounds: Mapping[_Name, Sequence[float]]) -> _Name:
    """The first name without a clearly faster other, from name -> its time in each round, in order
    of preference: it gives the same export the same engine each time.
    """

    def is_faster(one: Sequence[float], other: Sequence[float]) -> bool:
        pairs = list(zip(one, other, strict=False))
        return sum(_TIE * a < b for a, b in pairs) >= _AGREE * len(pairs)

    for name, mine in rounds.items():
        if not any(is_faster(other, mine) for other in rounds.values()):
            return name
    return min(rounds, key=lambda name: statistics.median(rounds[name]))
