"""Which engine of a bundle serves: the fastest whose pictures are within the limits of its
precision, on this machine, out of the exact precisions unless fast ones are asked for.

Every engine that can run here renders the bundle's reference maps; what differs from PyTorch's
pictures by more than its limits is out, the others are timed in turn at the largest map. Engines
that are as fast as each other are taken in a fixed order. The choice is remembered with
the facts of the machine and the engines that there were, and made anew where they or the bundle
differ.
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

from sceneloom.contract import MODEL_NAME
from sceneloom.errors import EngineError, ParityError, SceneLoomError
from sceneloom.files import file_hash, write_whole
from sceneloom.request import Request
from sceneloom.synthesizer import Synthesizer
from sceneloom.text import parse_json
from sceneloom.version import __version__
from sceneloom_serving.bundle import REFERENCES_FILE, REPORT_FILE, References, load_references
from sceneloom_serving.engines import ENGINES, Engine, cache_folder, engine_machine, unavailable
from sceneloom_serving.parity import (
    CLASSES,
    Parity,
    Precision,
    PrecisionClass,
    check_proof,
    run_parity,
)

_LEAST_ROUNDS, _MOST_ROUNDS, _ROUNDS_SECONDS = 5, 20, 1.5
_TURN_PICTURES, _TURN_SECONDS = 3, 0.05
"""In its turn an engine renders a few pictures where they take little, and the quickest counts: the
first one meets threads of the engine before it that are still awake.
"""


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
    rounds: tuple[float, ...] = ()
    """Its time in each round."""

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
    """Try every engine of a bundle: its pictures one after the other, its time in turn with the
    others, which stay loaded for that.

    Args:
        version: a version's folder of an export bundle.
        references: maps, and the pictures they must give.
        max_batch_size: most pictures at once.
        without: precisions that are not tried, and why.
        engines: candidates.
    """
    measured: dict[str, Measured] = {}
    with contextlib.ExitStack() as stack:
        passed: dict[str, Synthesizer] = {}
        for engine in engines.values():
            reason = without.get(engine.precision) or unavailable(engine, version)
            found = Measured(engine=engine.name, reason=reason)
            if reason is None:
                with contextlib.ExitStack() as opened:
                    found, running = _prove(engine, version, references, max_batch_size, opened)
                    if running is not None:
                        passed[engine.name] = running
                        stack.push(opened.pop_all())
            measured[engine.name] = found
        for name, taken in _time_in_turn(passed, references.requests[-1]).items():
            if isinstance(taken, SceneLoomError):
                measured[name] = Measured(engine=name, reason=str(taken))
            else:
                measured[name] = dataclasses.replace(
                    measured[name], seconds=statistics.median(taken), rounds=tuple(taken)
                )
    return list(measured.values())


def _prove(
    engine: Engine,
    version: Path,
    references: References,
    max_batch_size: int,
    opened: contextlib.ExitStack,
) -> tuple[Measured, Synthesizer | None]:
    """An engine's differences, and the engine itself where it may serve."""
    try:
        running = opened.enter_context(engine.open(version / engine.file, max_batch_size))
        parity = run_parity(references.pictures, running, references.requests)
    except SceneLoomError as error:
        return Measured(engine=engine.name, reason=str(error)), None
    try:
        check_proof(parity, engine.precision, engine.name, len(references.requests))
    except ParityError as error:
        return Measured(engine=engine.name, parity=parity, reason=str(error)), None
    return Measured(engine=engine.name, parity=parity), running


def _time_in_turn(
    engines: Mapping[str, Synthesizer], request: Request
) -> dict[str, list[float] | SceneLoomError]:
    """Seconds of one picture in each round; what drifts meanwhile meets all engines alike."""
    turns: dict[str, list[float]] = {name: [] for name in engines}
    failed: dict[str, list[float] | SceneLoomError] = {}
    start = time.perf_counter()
    for number in range(_MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and time.perf_counter() - start > _ROUNDS_SECONDS:
            break
        for name in [name for name in engines if name not in failed]:
            try:
                turns[name].append(_turn(engines[name], request))
            except SceneLoomError as error:
                failed[name] = error
    return {**turns, **failed}


def _turn(synthesizer: Synthesizer, request: Request) -> float:
    arrays = (request.label_map, request.instance_map, request.style)
    batch = [None if array is None else array[None] for array in arrays]
    taken: list[float] = []
    while len(taken) < _TURN_PICTURES and sum(taken) < _TURN_SECONDS:
        start = time.perf_counter()
        synthesizer.run_batch(*batch)  # type: ignore[arg-type]
        taken.append(time.perf_counter() - start)
    return min(taken)


def fastest(
    measured: Sequence[Measured],
    precision: PrecisionClass = "exact",
    engines: Mapping[str, Engine] = ENGINES,
) -> str:
    """The engine that serves; of those that are as fast as each other the most exact, and of one
    precision the least plain.

    Raises:
        EngineError: none may; the text says why of each.
    """
    of_class = [m for m in measured if engines[m.engine].precision in CLASSES[precision]]
    may = {m.engine: m.rounds for m in of_class if m.seconds is not None}
    if not may:
        reasons = "; ".join(f"{m.engine}: {m.reason}" for m in of_class)
        raise EngineError(f"no engine of this bundle can serve here: {reasons}")
    order = {name: number for number, name in enumerate(engines)}

    def rank(name: str) -> tuple[int, int]:
        return CLASSES["fast"].index(engines[name].precision), -order[name]

    return first_of_the_fastest({name: may[name] for name in sorted(may, key=rank)})


def choose_engine(
    repository: Path,
    bundle_hash: str,
    *,
    precision: PrecisionClass = "exact",
    say: Callable[[str], None] = lambda line: None,
    engines: Mapping[str, Engine] = ENGINES,
) -> str:
    """The engine for a bundle on this machine, remembered or measured now.

    Raises:
        ServerStartError: the bundle has no reference pictures.
        EngineError: no engine can serve here.
    """
    version = repository / MODEL_NAME / "1"
    without = precisions_left_out(repository)
    known = recall(bundle_hash, version, engines, precision=precision)
    if known is not None and engines[known].precision not in without:
        return known
    say(f"trying the {precision} engines of this bundle on this machine, once")
    tried = {n: one for n, one in engines.items() if one.precision in CLASSES[precision]}
    references = load_references(repository)
    measured = measure_engines(version, references, without=without, engines=tried)
    for one in measured:
        say(str(one))
    return remember(bundle_hash, measured, version, engines, precision=precision)


def precisions_left_out(repository: Path) -> dict[Precision, str]:
    """Precisions that export left out, and why: its judge refused them, or they were not asked for.
    Nothing where there is no readable report.
    """
    left_out = _proof(repository).get("left_out")
    if not isinstance(left_out, dict):
        return {}
    return {name: str(reason) for name, reason in left_out.items()}


def _proof(repository: Path) -> dict[str, Any]:
    """What export wrote down of its proof; empty where there is no readable report."""
    try:
        proof = parse_json((repository / REPORT_FILE).read_text("utf-8"))["proof"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return proof if isinstance(proof, dict) else {}


def remember(
    bundle_hash: str,
    measured: Sequence[Measured],
    version: Path,
    engines: Mapping[str, Engine] = ENGINES,
    *,
    precision: PrecisionClass = "exact",
) -> str:
    """Keep measurements of this bundle on this machine; the name of the engine that serves."""
    chosen, facts = fastest(measured, precision, engines), _facts(version, engines)
    content = {
        **facts,
        "bundle_hash": bundle_hash,
        "precision": precision,
        "engine": chosen,
        "measured": {m.engine: m.to_json() for m in measured},
    }
    # A home that cannot be written, or that there is none of, costs a measurement at every start.
    with contextlib.suppress(OSError, RuntimeError):
        path = _memory(bundle_hash, facts["machine"], precision)
        write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    return chosen


def recall(
    bundle_hash: str,
    version: Path,
    engines: Mapping[str, Engine] = ENGINES,
    *,
    precision: PrecisionClass = "exact",
) -> str | None:
    """The engine that was chosen for this bundle on a machine like this, out of the engines that
    can run now; None if none was.
    """
    found = _remembered(bundle_hash, version, engines, precision)
    return None if found is None else str(found["engine"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the engine that serves, in words."""

    difference: str
    """From PyTorch's pictures."""
    fast: str
    """What `--precision fast` would bring."""


def what_is_known(
    repository: Path, bundle_hash: str, engine: str, engines: Mapping[str, Engine] = ENGINES
) -> Known:
    """Look up what was measured of an engine on this machine, or else at export."""
    version, report = repository / MODEL_NAME / "1", _proof(repository)
    exact = _remembered(bundle_hash, version, engines, "exact") or {}
    fast = _remembered(bundle_hash, version, engines, "fast") or {}
    difference = "not measured"
    for source, where in ((exact, ""), (fast, ""), (report, " at export")):
        parity = _parity(source.get("measured") or source.get("engines"), engine)
        if parity is not None:
            difference = f"{parity}{where}"
            break
    unproven = _unproven(version, precisions_left_out(repository), engines)
    return Known(difference=difference, fast=_fast_words(engine, engines, fast, unproven))


def known_of(
    engine: str,
    measured: Sequence[Measured],
    version: Path,
    left_out: Mapping[Precision, str],
    engines: Mapping[str, Engine] = ENGINES,
) -> Known:
    """What has just been measured of the engine that serves."""
    by_name = {one.engine: one.to_json() for one in measured}
    fast = {"engine": fastest(measured, "fast", engines), "measured": by_name}
    unproven = _unproven(version, left_out, engines)
    difference = str(next(one.parity for one in measured if one.engine == engine))
    return Known(difference=difference, fast=_fast_words(engine, engines, fast, unproven))


def _unproven(
    version: Path, left_out: Mapping[Precision, str], engines: Mapping[str, Engine]
) -> dict[str, str]:
    """Why there is nothing fast in a bundle, by engine; empty where there is something."""
    fast = [one for one in engines.values() if one.precision not in CLASSES["exact"]]
    reasons: dict[str, str] = {}
    for one in fast:
        reason = left_out.get(one.precision)
        if reason is None and not (version / one.file).is_file():
            reason = f"not proven: {one.make_file}"
        if reason is None:
            return {}
        reasons[one.precision] = reason
    return reasons


def _fast_words(
    engine: str,
    engines: Mapping[str, Engine],
    fast: Mapping[str, Any],
    unproven: Mapping[str, str],
) -> str:
    if engines[engine].precision not in CLASSES["exact"]:
        return "serves"
    if unproven:
        reasons: dict[str, list[str]] = {}
        for precision, reason in unproven.items():
            reasons.setdefault(reason, []).append(precision)
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
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
    """An engine's differences as they were written down; None where they were not."""
    try:
        return Parity.from_json(measured[engine]["parity"])
    except (KeyError, TypeError, ValueError):
        return None


def _remembered(
    bundle_hash: str,
    version: Path,
    engines: Mapping[str, Engine],
    precision: PrecisionClass,
) -> dict[str, Any] | None:
    """What `remember` kept, where it holds here and now."""
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


def _memory(bundle_hash: str, machine: dict[str, Any], precision: PrecisionClass) -> Path:
    facts = json.dumps(machine, sort_keys=True).encode()
    name = f"{bundle_hash[:16]}-{hashlib.sha256(facts).hexdigest()[:16]}-{precision}.json"
    return cache_folder() / "engines" / name


TIE = 1.05
"""Times that differ by less than this factor count as equal."""
AGREE = 0.9
"""Share of the rounds in which one has to be faster by more than that."""
_Name = TypeVar("_Name")


def first_of_the_fastest(rounds: Mapping[_Name, Sequence[float]]) -> _Name:
    """The first of those that no other is clearly faster than: two measurements of one machine
    differ, and without a fixed order the same export would choose another engine each time.

    Args:
        rounds: name -> its time in each round, at least one name, in the order of preference.
    """

    def is_faster(one: Sequence[float], other: Sequence[float]) -> bool:
        pairs = list(zip(one, other, strict=False))
        return sum(TIE * a < b for a, b in pairs) >= AGREE * len(pairs)

    for name, mine in rounds.items():
        if not any(is_faster(other, mine) for other in rounds.values()):
            return name
    return min(rounds, key=lambda name: statistics.median(rounds[name]))
