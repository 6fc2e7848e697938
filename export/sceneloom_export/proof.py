"""Proving an export: reference pictures by PyTorch in float32, and judges of lower precisions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from sceneloom.contract import Contract
from sceneloom.errors import ParityError
from sceneloom.maps import Image
from sceneloom.request import Request
from sceneloom_export.recognition import Recognition
from sceneloom_export.rounding import RoundedSynthesizer, check_half_range
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer
from sceneloom_serving.openvino_runtime import OpenVinoSynthesizer
from sceneloom_serving.parity import (
    Parity,
    Precision,
    check_parity,
    check_proof,
    compare,
    reference_pictures,
    run_parity,
)
from sceneloom_serving.references import References
from sceneloom_training.networks import SynthesisNetwork
from sceneloom_training.torch_synthesizer import TorchSynthesizer

_DTYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """What a precision does to a model's pictures."""

    precision: Precision
    """The precision."""
    parity: Parity
    """Of PyTorch's graph with every tensor rounded, or of the quantised graph's engine."""
    lost: float | None = None
    """Points of mean IoU that it costs, where a segmenter was given and the limits were kept."""
    largest: dict[str, float] = dataclasses.field(default_factory=dict)
    """Layer -> largest absolute value before rounding."""
    reason: str | None = None
    """Why it may not be used; None if it may."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; a layer that was not finite is null."""
        largest = {n: v if v == v else None for n, v in self.largest.items()}
        return {
            "parity": self.parity.to_json(),
            "lost_mean_iou": self.lost,
            "largest": largest,
            "reason": self.reason,
        }

    def __str__(self) -> str:
        """One line for people."""
        if self.reason is not None:
            return f"{self.precision} left out: {self.reason}"
        lost = "" if self.lost is None else f"; loses {self.lost:.1f} points of mean IoU"
        return f"{self.precision}: {self.parity}{lost}"


def make_references(
    generator: SynthesisNetwork, contract: Contract, maps: list[Request]
) -> References:
    """PyTorch's pictures, float32, on the CPU."""
    pictures = reference_pictures(TorchSynthesizer(generator, contract), maps)
    return References(requests=maps, pictures=pictures)


def judge_rounded(
    generator: SynthesisNetwork,
    contract: Contract,
    precision: Precision,
    references: References,
    recognition: Recognition | None = None,
) -> Judged:
    """Run PyTorch's graph with every tensor rounded, and hold it against the limits.

    Args:
        generator: float32.
        contract: of the model.
        precision: fp16 or bf16.
        references: maps, and the pictures they must give.
        recognition: a segmenter that looks at the pictures of bf16 too.
    """
    rounded = RoundedSynthesizer(generator, contract, _DTYPES[precision])
    pictures = reference_pictures(rounded, references.requests)
    seen = recognition if precision == "bf16" else None
    judged = _judge(
        f"PyTorch's graph rounded to {precision}", precision, references, pictures, seen
    )
    judged = dataclasses.replace(judged, largest=rounded.largest)
    if precision == "fp16":
        try:
            check_half_range(rounded.largest)
        except ParityError as error:  # it explains whatever else is wrong
            return dataclasses.replace(judged, reason=str(error))
    return judged


def judge_quantised(
    graph: Path, references: References, recognition: Recognition | None = None
) -> Judged:
    """Run the quantised graph in OpenVINO, which computes it in int8, and hold it against the
    limits.

    Args:
        graph: with Q/DQ nodes.
        references: maps, and the pictures they must give.
        recognition: a segmenter that looks at the pictures too.
    """
    with OpenVinoSynthesizer(graph, precision="int8") as engine:
        pictures = reference_pictures(engine, references.requests)
    return _judge(graph.name, "int8", references, pictures, recognition)


def _judge(
    name: str,
    precision: Precision,
    references: References,
    pictures: list[Image],
    recognition: Recognition | None,
) -> Judged:
    parity, lost, reason = compare(references.pictures, pictures), None, None
    try:
        check_proof(parity, precision, name, len(references.requests))
        if recognition is not None:
            count = recognition.pictures
            lost = recognition.check(references.pictures[-count:], pictures[-count:], precision)
    except ParityError as error:
        reason = str(error)
    return Judged(precision=precision, parity=parity, lost=lost, reason=reason)


def check_graph(
    graph: Path, precision: Precision, references: References, count: int
) -> Parity | None:
    """Prove that an exported graph says what PyTorch's does, in ONNX Runtime on the CPU.

    Only small maps are used: its norms are not accurate on large ones, and it rounds no halves.

    Args:
        graph: the exported graph.
        precision: whose limits hold.
        references: maps, the small ones first.
        count: how many of them; with none, nothing is proven.

    Raises:
        ParityError: the pictures differ.
    """
    if not count:
        return None
    runtime = OnnxRuntimeSynthesizer(graph)
    parity = run_parity(references.pictures[:count], runtime, references.requests[:count])
    check_parity(parity, precision, f"{graph.name} in ONNX Runtime")
    return parity
