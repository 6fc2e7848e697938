"""A segmenter that looks at the pictures of lower precisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import CHECKOUT

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError, InputError, ParityError
from sceneloom.maps import Image
from sceneloom.request import Request, prepare
from sceneloom.schema import load_schema
from sceneloom_export.precision import Recognition
from sceneloom_streets import draw_pair

SEGMENTER = CHECKOUT / "examples" / "street_demo" / "segmenter"
CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
SEEDS = range(3_000_000, 3_000_003)


@pytest.fixture(scope="module")
def streets() -> tuple[list[Request], list[Image]]:
    pairs = [draw_pair(seed, 128, 256) for seed in SEEDS]
    requests = [prepare(CONTRACT, pair.label_map, pair.instance_map) for pair in pairs]
    return requests, [pair.photo[None] for pair in pairs]


@pytest.fixture(scope="module")
def recognition(streets: tuple[list[Request], list[Image]]) -> Recognition:
    return Recognition(SEGMENTER, CONTRACT.schema, streets[0])


def test_equal_pictures_lose_nothing(
    recognition: Recognition, streets: tuple[list[Request], list[Image]]
) -> None:
    photos = streets[1]
    assert recognition.pictures == len(SEEDS)
    assert recognition.mean_iou(photos) > 40  # photographs: it knows streets
    assert recognition.check(photos, photos, "bf16") == 0


def test_what_is_not_recognised_is_refused(
    recognition: Recognition, streets: tuple[list[Request], list[Image]]
) -> None:
    photos = streets[1]
    grey = [np.full_like(photo, 128) for photo in photos]
    with pytest.raises(ParityError, match=r"int8 loses \d+\.\d points of mean IoU in the eyes of"):
        recognition.check(photos, grey, "int8")
    assert recognition.check(grey, photos, "int8") < 0  # better than float32 is no loss


def test_a_segmenter_of_other_classes_is_refused(
    streets: tuple[list[Request], list[Image]],
) -> None:
    with pytest.raises(InputError, match="no class name in common"):
        Recognition(SEGMENTER, load_schema("helen"), streets[0])


def test_a_segmenter_that_is_not_there(streets: tuple[list[Request], list[Image]]) -> None:
    with pytest.raises(CheckpointError, match="nothing: is no segmenter"):
        Recognition(Path("nothing"), CONTRACT.schema, streets[0])
