"""What is measured, in the order in which a waterfall shows it: PyTorch as published, PyTorch
faster, then the engines, the plainest first.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from sceneloom.errors import InputError
from sceneloom.synthesizer import Synthesizer
from sceneloom_bench.engine.bundle import Bundle
from sceneloom_bench.engine.peaks import Device
from sceneloom_bench.engine.torch_ways import EAGER, TORCH_WAYS, open_torch
from sceneloom_export.settings import ExportPrecision
from sceneloom_serving.bundle import MODEL_FILE
from sceneloom_serving.engines import ENGINES, open_engine, unavailable
from sceneloom_serving.parity import Precision

ALL_CLASSES = "openvino-fp32, all classes"
"""Without the rewriting that leaves out the classes that do not occur: the bar beside it."""
PLAN = "tensorrt-fp16"
SERVED = "through Triton"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to get pictures."""

    name: str
    """As the table has it."""
    precision: Precision
    """Whose limits its pictures are held against."""
    how: str
    """In words, for the report."""
    open: Callable[[], Synthesizer]
    """Picklable; called in a process of its own."""


def known_names(device: Device | None = None) -> list[str]:
    """All that can be measured on a device, in the table's order; on any, if none is named."""
    if device is None:
        return list(dict.fromkeys([*known_names("cpu"), *known_names("cuda")]))
    names = list(TORCH_WAYS[device])
    for engine in ENGINES.values():
        if engine.gpu == (device == "cuda"):
            names += [ALL_CLASSES] if engine.name == "openvino-fp32" else []
            names.append(engine.name)
    return names


def check_names(names: Sequence[str]) -> None:
    """Refuse what is not among `known_names`.

    Raises:
        InputError: names the nearest that is.
    """
    for name in names:
        if name not in known_names():
            near = difflib.get_close_matches(name, known_names(), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known_names())}"
            raise InputError(f"no engine {name!r} to measure; {hint}")


def choose(names: Sequence[str], device: Device) -> tuple[list[str], dict[str, str]]:
    """What of these can be tried on this machine.

    Args:
        names: as `known_names` has them; none takes all.
        device: where PyTorch runs, and which engines are beside it.

    Returns:
        names to try in the table's order, the baseline first, and why each other one cannot be.
    """
    wanted = [n for n in known_names() if n in {EAGER, *names}] if names else known_names()
    tried, cannot = [], {}
    for name in wanted:
        engine = ENGINES.get("openvino-fp32" if name == ALL_CLASSES else name)
        reason = None if engine is None else unavailable(engine)
        if reason is None and name not in known_names(device):
            other = "a GPU" if device == "cpu" else "the CPU, with --device cpu,"
            reason = f"is measured on {other} only"
        if reason is None:
            tried.append(name)
        else:
            cannot[name] = reason
    return tried, cannot


def needed_precisions(names: Sequence[str]) -> list[ExportPrecision]:
    """What has to be exported for these; nothing where none of them needs a bundle."""
    if not needs_bundle(names):
        return []
    used = {ENGINES[name].precision for name in names if name in ENGINES}
    order: tuple[ExportPrecision, ...] = ("fp32", "fp16", "bf16", "int8")
    return [precision for precision in order if precision == "fp32" or precision in used]


def needs_bundle(names: Sequence[str]) -> bool:
    """Whether one of these runs an exported model."""
    return any(name in ENGINES or name == ALL_CLASSES for name in names)


def contenders(
    names: Sequence[str],
    device: Device,
    checkpoint: Path,
    bundle: Bundle | None,
    largest_batch: int,
) -> tuple[list[Contender], dict[str, str]]:
    """What is measured.

    Args:
        names: of `choose`.
        device: as there.
        checkpoint: what PyTorch runs.
        bundle: what engines run; None leaves them out without a word.
        largest_batch: most pictures at once.

    Returns:
        those that can be opened, and why each other one cannot be.
    """
    found, cannot = [], {}
    for name in names:
        if name in TORCH_WAYS[device]:
            way = TORCH_WAYS[device][name]
            opened = functools.partial(open_torch, checkpoint, way, device, largest_batch)
            found.append(
                Contender(name=name, precision=way.precision, how=f"PyTorch, {way}", open=opened)
            )
        elif bundle is not None:
            engine = ENGINES["openvino-fp32" if name == ALL_CLASSES else name]
            folder = bundle.folder_of(engine)
            reason = unavailable(engine, folder)
            if reason is not None:
                cannot[name] = bundle.left_out.get(engine.precision, reason)
                continue
            found.append(
                Contender(
                    name=name,
                    precision=engine.precision,
                    how=f"{engine.file} in {name}",
                    open=_opened(name, folder, largest_batch),
                )
            )
    return found, cannot


def open_all_classes(graph: Path, largest_batch: int) -> Synthesizer:
    """OpenVINO over the planes of all classes, whether they occur or not."""
    from sceneloom_serving.openvino_runtime import OpenVinoSynthesizer

    return OpenVinoSynthesizer(graph, max_batch_size=largest_batch, absent_classes=True)


def _opened(name: str, version: Path, largest_batch: int) -> Callable[[], Synthesizer]:
    if name == ALL_CLASSES:
        return functools.partial(open_all_classes, version / MODEL_FILE, largest_batch)
    return functools.partial(open_engine, name, version, max_batch_size=largest_batch)
