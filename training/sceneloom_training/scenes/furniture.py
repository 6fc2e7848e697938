"""Street furniture: lamps, traffic lights, signs, bollards, bins, fences and walls."""

from __future__ import annotations

import dataclasses

import numpy as np

from sceneloom_training.scenes.ids import (
    FENCE,
    POLE,
    STATIC,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    UNLABELLED,
    WALL,
)
from sceneloom_training.scenes.solids import Face, Thing, along, bar, disc, pieces, upright

Outline = list[tuple[float, float]]


def lamp(rng: np.random.Generator, *, t: float, s: float, tall: float, towards: float) -> Thing:
    """A street lamp; its arm points `towards` the road (-1 left, 1 right)."""
    arm = towards * float(rng.uniform(0.6, 2.2))
    parts = [
        (POLE, "pole", bar((0, 0), (0, tall), 0.2, 0.11)),
        (POLE, "pole", bar((0, tall - 0.05), (arm, tall + 0.3), 0.1)),
        (STATIC, "lamp-head", bar((arm, tall + 0.28), (arm + towards * 0.7, tall + 0.34), 0.2)),
    ]
    return _standing(parts, t, s)


def sign(rng: np.random.Generator, *, t: float, s: float) -> Thing:
    """A pole with one or two traffic signs; some show their grey backs."""
    top = float(rng.uniform(2.2, 3.3))
    label, kind = (TRAFFIC_SIGN, "traffic-sign") if rng.random() < 0.85 else (STATIC, "sign-back")
    parts = [(POLE, "pole", bar((0, 0), (0, top), 0.08))]
    parts.append((label, kind, _plate(rng, top)))
    if rng.random() < 0.35:
        parts.append((label, kind, bar((-0.3, top - 0.62), (0.3, top - 0.62), 0.26)))
    return _standing(parts, t, s)


def signpost(rng: np.random.Generator, *, t: float, s: float) -> Thing:
    """A large direction board on two posts."""
    wide, low = float(rng.uniform(1.4, 3.2)), float(rng.uniform(1.8, 2.6))
    high = low + float(rng.uniform(0.8, 1.8))
    parts = [
        (POLE, "pole", bar((-wide * 0.35, 0), (-wide * 0.35, high), 0.12)),
        (POLE, "pole", bar((wide * 0.35, 0), (wide * 0.35, high), 0.12)),
        (
            TRAFFIC_SIGN,
            "direction-board",
            bar((-wide / 2, (low + high) / 2), (wide / 2, (low + high) / 2), high - low),
        ),
    ]
    return _standing(parts, t, s)


def traffic_light(rng: np.random.Generator, *, t: float, s: float, reach: float) -> Thing:
    """A traffic light on a pole; with `reach` (metres, signed) a second one hangs over the road."""
    low = float(rng.uniform(2.2, 2.7))
    parts = [
        (POLE, "pole", bar((0, 0), (0, low + 1.1), 0.14)),
        (TRAFFIC_LIGHT, "traffic-light", bar((0, low), (0, low + 0.95), 0.36)),
    ]
    if reach:
        tall = float(rng.uniform(4.9, 5.6))
        parts += [
            (POLE, "pole", bar((0, 0), (0, tall + 0.4), 0.18)),
            (POLE, "pole", bar((0, tall), (reach, tall + 0.35), 0.14)),
            (TRAFFIC_LIGHT, "traffic-light", bar((reach, tall - 0.45), (reach, tall + 0.6), 0.4)),
        ]
    elif rng.random() < 0.3:
        parts.append((TRAFFIC_SIGN, "traffic-sign", _plate(rng, low + 1.75)))
        parts.append((POLE, "pole", bar((0, low + 1), (0, low + 1.4), 0.1)))
    return _standing(parts, t, s)


def bollards(*, t: float, s: tuple[float, float], gap: float) -> list[Thing]:
    """A row of knee-high posts along the kerb."""
    return [
        _standing([(POLE, "bollard", bar((0, 0), (0, 0.95), 0.13))], t, float(at))
        for at in np.arange(s[0], s[1], gap)
    ]


def clutter(rng: np.random.Generator, *, t: float, s: float) -> Thing:
    """Something fixed that has no class of its own: a bin, a cabinet, an advertising column."""
    kind = str(rng.choice(["bin", "cabinet", "column", "bench"], p=[0.45, 0.35, 0.06, 0.14]))
    wide, tall = {"bin": (0.6, 1.05), "cabinet": (1.0, 1.25), "column": (1.25, 2.9)}.get(
        kind, (1.6, 0.8)
    )
    wide, tall = wide * float(rng.uniform(0.8, 1.3)), tall * float(rng.uniform(0.85, 1.2))
    parts = [(STATIC, kind, bar((0, 0), (0, tall), wide))]
    if kind == "column":
        parts.append((STATIC, kind, disc((0, tall), wide * 0.6, 0.25)))
    elif rng.random() < 0.4:
        parts.append((UNLABELLED, "litter", disc((wide * 0.7, 0.25), 0.28, 0.25, corners=7)))
    return _standing(parts, t, s)


def barrier(
    rng: np.random.Generator,
    *,
    t: float,
    s: tuple[float, float],
    wall: bool,
    tall: tuple[float, float] = (0.8, 2.3),
) -> Thing:
    """A wall or a fence along the street, its height within `tall` metres."""
    top = float(rng.uniform(*tall))
    label, kind = (WALL, "wall") if wall else (FENCE, "fence")
    faces: list[Face] = []
    for start, end in pieces(s):
        face = along(label, kind, t=t, s=(start, end), y=(0.0, top))
        faces.append(dataclasses.replace(face, order=end))
    if not wall:
        posts = np.arange(s[0] + 1.5, min(s[1], 45.0), 3.0)
        for at in posts.tolist():
            post = upright(label, "fence-post", bar((0, 0), (0, top + 0.12), 0.1), t=t, s=at)
            faces.append(dataclasses.replace(post, order=at))
    return Thing(order=s[1], faces=tuple(faces))


def _standing(parts: list[tuple[int, str, Outline]], t: float, s: float) -> Thing:
    faces = tuple(upright(label, kind, outline, t=t, s=s) for label, kind, outline in parts)
    return Thing(order=s, faces=faces)


def _plate(rng: np.random.Generator, top: float) -> Outline:
    """One sign's outline: round, triangular, square, diamond or oblong."""
    form = int(rng.integers(5))
    size = float(rng.uniform(0.28, 0.4))
    if form == 0:
        return disc((0, top), size, corners=16)
    if form == 1:
        up = float(rng.choice([-1.0, 1.0]))
        return [(-size, top - up * size * 0.6), (size, top - up * size * 0.6), (0, top + up * size)]
    if form == 2:
        return bar((-size * 0.85, top), (size * 0.85, top), size * 1.7)
    if form == 3:
        return disc((0, top), size, corners=4)
    return bar((-size, top), (size, top), size * 1.1)
