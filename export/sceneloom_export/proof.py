"""The proof of an export: its maps, reference pictures by PyTorch in float32, and verdicts on lower
precisions.

A fast precision is proven on maps of eight kinds beside the others, because each kind may break
other limits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch

from sceneloom import progress
from sceneloom.contract import STYLE_ROWS, Contract
from sceneloom.errors import InputError, MissingInputError, ParityError, SizeError
from sceneloom.files import LeftOut
from sceneloom.map_reading import MapReader
from sceneloom.maps import Image, LabelMap, renumber_instances
from sceneloom.pairing import pair_maps
from sceneloom.request import Padding, Request, prepare
from sceneloom.synthesizer import Synthesizer
from sceneloom_export.fp8 import emulate
from sceneloom_export.precision import Recognition, RoundedSynthesizer, check_half_range
from sceneloom_serving import parity
from sceneloom_serving.bundle import BLOCK, Golden, References, block_means
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer
from sceneloom_serving.openvino_runtime import OpenVinoSynthesizer
from sceneloom_serving.parity import Parity, Precision, reference_pictures
from sceneloom_streets import draw_street
from sceneloom_streets.painting import StreetLabels
from sceneloom_training.networks import SynthesisNetwork
from sceneloom_training.torch_synthesizer import TorchSynthesizer

_DTYPES: dict[Precision, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float16,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionVerdict:
    """Effect of a precision on a model's pictures."""

    precision: Precision
    parity: Parity
    """Parity of PyTorch's graph with every tensor rounded, or of the quantised graph's engine."""
    lost: float | None = None
    """Lost points of mean IoU, with a segmenter and within the limits."""
    largest: dict[str, float] = dataclasses.field(default_factory=dict)
    """Layer -> largest absolute value before rounding."""
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The verdict as a JSON object, with null for a layer that was not finite."""
        largest = {n: v if v == v else None for n, v in self.largest.items()}
        found = {"parity": self.parity.to_json(), "lost_mean_iou": self.lost}
        return {**found, "largest": largest, "reason": self.reason}

    def __str__(self) -> str:
        if self.reason is not None:
            return f"{self.precision} left out: {self.reason}"
        lost = "" if self.lost is None else f"; loses {self.lost:.1f} points of mean IoU"
        return f"{self.precision}: {self.parity}{lost}"


def make_references(
    generator: SynthesisNetwork, contract: Contract, maps: list[Request]
) -> References:
    """PyTorch's pictures in float32 on the CPU."""
    torch_ = TorchSynthesizer(generator, contract)
    pictures = reference_pictures(torch_, maps, "render with PyTorch")
    return References(requests=maps, pictures=pictures)


def judge_rounded(
    generator: SynthesisNetwork,
    contract: Contract,
    precision: Precision,
    references: References,
    recognition: Recognition | None = None,
) -> PrecisionVerdict:
    """Check PyTorch's graph rounded to fp16, bf16 or fp8, and bf16's recognition."""
    if precision == "fp8":
        generator = emulate(generator)
    rounded = RoundedSynthesizer(generator, contract, _DTYPES[precision])
    seen = recognition if precision == "bf16" else None
    name = f"PyTorch's graph rounded to {precision}"
    verdict = _judge(name, precision, references, rounded, seen)
    verdict = dataclasses.replace(verdict, largest=rounded.largest)
    if _DTYPES[precision] == torch.float16:
        try:
            check_half_range(rounded.largest)
        except ParityError as error:  # it explains any other fault
            return dataclasses.replace(verdict, reason=str(error))
    return verdict


def judge_quantised(
    graph: Path, references: References, recognition: Recognition | None = None
) -> PrecisionVerdict:
    """Check the quantised graph in OpenVINO, which computes it in int8, against the limits."""
    with OpenVinoSynthesizer(graph, precision="int8") as engine:
        return _judge(graph.name, "int8", references, engine, recognition)


def _judge(
    name: str,
    precision: Precision,
    references: References,
    engine: Synthesizer,
    recognition: Recognition | None,
) -> PrecisionVerdict:
    pictures = reference_pictures(engine, references.requests, f"judge {precision}")
    found, lost, reason = parity.compare(references.pictures, pictures), None, None
    try:
        parity.check_proof(found, precision, name, len(references.requests))
        if recognition is not None:
            count = recognition.pictures
            with progress.stage(f"segment the pictures of {precision}"):
                lost = recognition.check(references.pictures[-count:], pictures[-count:], precision)
    except ParityError as error:
        reason = str(error)
    return PrecisionVerdict(precision=precision, parity=found, lost=lost, reason=reason)


def check_graph(
    graph: Path, precision: Precision, references: References, count: int
) -> Parity | None:
    """Compare a graph in ONNX Runtime on the CPU with the first references; raises ParityError.

    Those are small: its norms are not accurate on large ones, and it rounds no halves.
    """
    if not count:
        return None
    runtime = OnnxRuntimeSynthesizer(graph)
    found = parity.run_parity(references.pictures[:count], runtime, references.requests[:count])
    parity.check_parity(found, precision, f"{graph.name} in ONNX Runtime")
    return found


CALIBRATION_MAPS = 8
_MODERATE_SIZE = (256, 512)
_STREETS = 3
_OF_STREETS: dict[str, StreetLabels] = {name: name for name in get_args(StreetLabels)}
"""Schemas of streets."""
_STREET_SEED = 3_000_000  # far from every street of training or tests
_GOLDEN_CLASSES = 16  # as in streets


def reference_maps(
    contract: Contract, largest: tuple[int, int], own: list[Request], *, kinds: bool = False
) -> list[Request]:
    """The maps of the parity proof: shapes at small sizes or the contract's, with `kinds` for fast
    precisions all kinds and streets at a moderate size, the user's own, and one at `largest`: for
    Cityscapes' schemas a street, on whose large even regions inaccurate norms fail.
    """
    sizes = probe_sizes(contract)
    last = max(sizes, key=lambda s: s[0] * s[1])
    if contract.sizes is None:
        last = contract.network_size(*largest)
    probes = [draw_probe(contract, *size, seed) for seed, size in enumerate(sizes)]
    more: list[Request] = []
    if kinds:
        if contract.sizes is not None:
            size = min(contract.sizes, key=lambda s: s[0] * s[1])
        else:
            moderate = [min(*sides) for sides in zip(largest, _MODERATE_SIZE, strict=True)]
            size = contract.network_size(*(max(side, contract.smallest_side) for side in moderate))
        more = draw_kinds(contract, *size, seed=2000)
        if contract.schema is not None and contract.schema.name in _OF_STREETS:
            more += [draw_map(contract, size, 200 + number) for number in range(_STREETS)]
    return [*probes, *more, *own, draw_map(contract, last, len(sizes))]


def calibration_maps(contract: Contract, own: list[Request]) -> list[Request]:
    """The maps for the ranges of int8: the user's own, or else drawn ones."""
    if own:
        return own[:CALIBRATION_MAPS]
    if contract.sizes is not None:
        size = max(contract.sizes, key=lambda s: s[0] * s[1])
    else:
        size = contract.network_size(*(max(s, 2 * contract.smallest_side) for s in _MODERATE_SIZE))
    return [draw_map(contract, size, 100 + number) for number in range(CALIBRATION_MAPS)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnMaps:
    """The first maps of a user's folder."""

    requests: list[Request]
    found: int
    """Count of maps in the folder."""
    left_out: Sequence[LeftOut]


def read_own_maps(
    contract: Contract, folder: Path, most: int, reader: MapReader | None = None
) -> OwnMaps:
    """Read the first maps of a folder, in `test_label` (pictures: `test_A`) and `test_inst` or side
    by side; raises InputError, or SizeError for one to be padded: parity is measured on whole
    pictures.
    """
    reader = reader or MapReader(contract.schema)
    labels = folder / ("test_A" if contract.schema is None else "test_label")
    instances = folder / "test_inst"
    pairs, left_out = pair_maps(
        labels if labels.is_dir() else folder,
        instances if instances.is_dir() else folder,
        training_ids=contract.schema is not None and contract.schema.has_training_ids,
        kind=contract.kind,
    )
    requests = []
    for pair in pairs[:most]:
        label_map, instance_map = reader.label_map(pair.label), None
        if contract.wants_instances:
            instance_map = (
                reader.edges(label_map, pair.label)
                if pair.instance is None
                else reader.instance_map(pair.instance)
            )
        try:
            request = prepare(contract, label_map, instance_map)
        except MissingInputError as error:
            way_out = "to take the edges of the label map: --boundaries labels"
            raise InputError(f"{pair.label}: {error}; {way_out}") from None
        except InputError as error:
            raise InputError(f"{pair.label}: {error}") from None
        if request.padding != Padding():
            raise SizeError(
                f"{pair.label}: is no multiple of {contract.size_multiple} on each side"
            )
        requests.append(request)
    return OwnMaps(requests=requests, found=len(pairs), left_out=left_out)


def draw_map(contract: Contract, size: tuple[int, int], seed: int) -> Request:
    """Draw a map outside every training set: a street for Cityscapes' schemas."""
    schema = contract.schema
    if schema is None or schema.name not in _OF_STREETS:
        return draw_probe(contract, *size, seed)
    street = draw_street(_STREET_SEED + seed, *size, labels=_OF_STREETS[schema.name])
    instances = street.instance_map if contract.wants_instances else None
    return prepare(contract, street.label_map, instances)


_LARGEST_INSTANCE_ID = 2**31 - 1
_COLOURS = 32
"""Colours of a drawn picture, which stand for classes."""
_SHADES = 24
"""Grey levels by which neighbouring pixels of one colour differ at most."""


def _channels(contract: Contract) -> int:
    return _COLOURS if contract.schema is None else contract.schema.channels


def _as_input(contract: Contract, label_map: LabelMap, rng: np.random.Generator) -> Image:
    """The label map itself, or a picture of it: a colour for each class, half of it with noise."""
    if contract.kind == "labels":
        return label_map
    colours = rng.integers(0, 256, (_COLOURS, 3))
    noise = rng.integers(0, _SHADES, (*label_map.shape, 3))
    noise[:, label_map.shape[1] // 2 :] = 0
    return np.clip(colours[label_map] + noise, 0, 255).astype(np.uint8)


def probe_sizes(contract: Contract) -> list[tuple[int, int]]:
    """The (height, width) pairs to try: the contract's, or three of different shape."""
    if contract.sizes is not None:
        return list(contract.sizes)
    side = max(contract.smallest_side, 64 // contract.size_multiple * contract.size_multiple)
    return [(side, side), (2 * side, 3 * side), (3 * side, 2 * side + contract.size_multiple)]


def golden_size(contract: Contract) -> tuple[int, int]:
    """(height, width) of the golden map: an engine's first size, or at least 4 by 8 blocks."""
    if contract.sizes is not None:
        return contract.sizes[0]
    unit = math.lcm(contract.size_multiple, BLOCK)
    height = -(-max(contract.smallest_side, 4 * BLOCK) // unit) * unit
    return height, 2 * height


def make_golden(generator: SynthesisNetwork, contract: Contract) -> Golden:
    """Draw the golden map, and take the block means of PyTorch's picture."""
    request = draw_probe(contract, *golden_size(contract), seed=1000, classes=_GOLDEN_CLASSES)
    image = TorchSynthesizer(generator, contract).run_requests([request])[0]
    return Golden(request=request, block_means=block_means(image))


def draw_probe(
    contract: Contract, height: int, width: int, seed: int, *, classes: int | None = None
) -> Request:
    """Draw bands of labels, then ellipses, boxes and lines, each an instance of its own."""
    rng = np.random.default_rng(seed)
    channels = _channels(contract)
    label_map = np.zeros((height, width), np.uint8)
    instance_map = np.zeros((height, width), np.int32)
    for band, row in enumerate(range(0, height, max(height // 4, 1))):
        label_map[row:] = rng.integers(channels)
        instance_map[row:] = band
    # Ids far above 2048 and 65,535: an engine that compares them as half or as 16 bits loses
    # boundaries.
    ids = _LARGEST_INSTANCE_ID - rng.permutation(40)
    for index, instance_id in enumerate(ids):
        shape = np.zeros((height, width), np.uint8)
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = int(rng.integers(2, max(width // 4, 3))), int(rng.integers(2, max(height // 3, 3)))
        if index % 3 == 0:
            cv2.ellipse(shape, (x, y), (w, h), float(rng.uniform(0, 180)), 0, 360, (1,), -1)
        elif index % 3 == 1:
            cv2.rectangle(shape, (x, y), (x + w, y + h), (1,), -1)
        else:
            end = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.line(shape, (x, y), end, (1,), 2)
        inside = shape == 1
        label_map[inside] = rng.integers(channels)
        instance_map[inside] = instance_id
    if classes is not None and classes < channels:
        chosen = rng.permutation(channels)[:classes].astype(np.uint8)
        label_map = chosen[label_map % classes]
    style = None
    if contract.style_channels:
        instance_map, _ = renumber_instances(instance_map, STYLE_ROWS)
        style = rng.normal(0.0, 0.5, (STYLE_ROWS, contract.style_channels)).astype(np.float32)
    instances = instance_map if contract.wants_instances else None
    main = _as_input(contract, label_map, rng)
    return Request(label_map=main, instance_map=instances, style=style, padding=Padding())


_MAX_REGIONS = 200
_FEW = 6
KINDS = ("even", "stripes", "slopes", "crowd", "cells", "rings", "blocks", "lines")
_MANY_CLASSES = ("cells", "blocks")
"""Kinds with all classes of the schema. The others have a few."""


def draw_kinds(contract: Contract, height: int, width: int, seed: int) -> list[Request]:
    """Draw a map of each kind, with a class and an instance for each region."""
    requests = []
    channels = _channels(contract)
    for number, kind in enumerate(KINDS):
        regions = _draw_regions(kind, height, width, np.random.default_rng((seed, number)))
        rng = np.random.default_rng((number, regions.size))
        classes = rng.permutation(channels)[: channels if kind in _MANY_CLASSES else _FEW]
        of_region = classes[rng.integers(0, len(classes), _MAX_REGIONS + 1)]
        of_region[: len(classes)] = classes[: len(of_region)]
        label_map = of_region[regions].astype(np.uint8)
        instances = regions.astype(np.int32) if contract.wants_instances else None
        requests.append(prepare(contract, _as_input(contract, label_map, rng), instances))
    return requests


def _draw_regions(
    kind: str, height: int, width: int, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """[H, W], the region of each pixel, 0 to at most 200, for one of `KINDS`.

    even: a few large ones; stripes: upright; slopes: slanted bands; crowd: many small squares on
    even ground; cells: nearest of 60 points; rings: around a point; blocks: small squares; lines:
    thin ones over even ground.
    """
    rows, columns = np.arange(height)[:, None] / height, np.arange(width)[None] / width
    regions: npt.NDArray[np.intp] = np.zeros((height, width), np.intp)
    if kind == "even":
        upper, left = rng.uniform(0.3, 0.5), rng.uniform(0.6, 0.8)
        regions = (rows > upper) + 2 * (columns > left).astype(np.intp)
    elif kind == "stripes":
        regions += (columns * rng.integers(20, 28)).astype(np.intp)
    elif kind == "slopes":
        regions = ((rows + rng.uniform(0.2, 0.6) * columns) * 12).astype(np.intp)
    elif kind == "crowd":
        side = max(min(height, width) // 16, 2)
        for number in range(1, 120):
            row, column = rng.integers(0, height), rng.integers(0, width)
            regions[row : row + side, column : column + side // 2 + 1] = number
    elif kind == "cells":
        nearest = np.full((height, width), np.inf)
        for number in range(60):
            y, x = rng.uniform(size=2)
            distance = (rows - y) ** 2 + (columns - x) ** 2 * (width / height) ** 2
            regions[distance < nearest] = number
            nearest = np.minimum(nearest, distance)
    elif kind == "rings":
        y, x = rng.uniform(0.3, 0.7, 2)
        regions = (np.hypot(rows - y, columns - x) * 16).astype(np.intp)
    elif kind == "blocks":
        numbers = rng.integers(0, _MAX_REGIONS, (-(-height // 16), -(-width // 16)))
        regions = np.kron(numbers, np.ones((16, 16), np.intp))[:height, :width]
    else:
        drawn = np.zeros((height, width), np.int32)
        for number in range(1, 40):
            start = (int(rng.integers(width)), int(rng.integers(height)))
            end = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.line(drawn, start, end, (number,), 1 + number % 3)
        regions = drawn.astype(np.intp)
    return regions
