"""People, riders, bicycles and motorcycles: cut-outs a metre or two high."""

from __future__ import annotations

import numpy as np

from sceneloom_streets.ids import BICYCLE, MOTORCYCLE, PERSON, RIDER
from sceneloom_streets.solids import Face, Points, Thing, bar, disc, upright


def pedestrian(rng: np.random.Generator, *, t: float, s: float, ground: float = 0.0) -> Thing:
    """A person standing or walking, adult or child, `ground` metres above the road."""
    tall = float(rng.uniform(1.55, 1.92) if rng.random() < 0.88 else rng.uniform(1.0, 1.4))
    broad = tall * float(rng.uniform(0.85, 1.2))
    stride = float(rng.uniform(-0.11, 0.11))
    hem = float(rng.choice([0.47, 0.47, 0.40, 0.30]))
    parts = [
        ("person-legs", bar((-0.045, 0.52), (-0.05 - stride, 0.02), 0.095, 0.055)),
        ("person-legs", bar((0.045, 0.52), (0.05 + stride, 0.02), 0.095, 0.055)),
        ("person-shoes", _foot(-0.05 - stride, stride)),
        ("person-shoes", _foot(0.05 + stride, stride)),
        ("person-torso", _torso(hem, 0.84)),
    ]
    for side in (-1, 1):
        hand = side * float(rng.uniform(0.12, 0.2)), float(rng.uniform(0.42, 0.6))
        parts.append(("person-arm", bar((side * 0.115, 0.81), hand, 0.06, 0.045)))
    parts += [
        ("person-head", bar((0, 0.8), (0, 0.9), 0.06)),
        ("person-head", disc((stride * 0.1, 0.93), 0.052, 0.07, corners=12)),
    ]
    if rng.random() < 0.3:
        bag = float(rng.choice([-0.16, 0.16]))
        parts.append(("person-bag", bar((bag, 0.42), (bag, 0.27), 0.14, 0.17)))
    faces = []
    for kind, outline in parts:
        u_y = np.array(outline) * [broad, tall] + [0, ground]
        faces.append(upright(PERSON, kind, u_y, t=t, s=s))
    return Thing(order=s, faces=tuple(faces))


def cyclist(rng: np.random.Generator, *, t: float, s: float, sideways: bool) -> list[Thing]:
    """A rider on a bicycle, seen from the side or from behind: two things, bicycle first."""
    flip = float(rng.choice([-1.0, 1.0]))
    if sideways:
        mount = bicycle(rng, t=t, s=s, turn=0.0, flip=flip)
        lean = float(rng.uniform(0.1, 0.32))
        neck = (-0.22 + lean, 1.48)
        pedal = float(rng.uniform(0.18, 0.55))
        knee = (0.14, 0.55 + pedal * 0.6)
        rider = [
            ("rider-torso", bar((-0.2, 0.9), neck, 0.26, 0.32)),
            ("rider-legs", bar((-0.2, 0.95), knee, 0.19, 0.14)),
            ("rider-legs", bar(knee, (0.02, pedal - 0.02), 0.14, 0.09)),
            ("rider-shoes", bar((-0.04, pedal - 0.03), (0.18, pedal - 0.03), 0.08)),
            ("rider-arm", bar((neck[0], 1.4), (0.36, 1.04), 0.1, 0.08)),
            ("rider-head", disc((neck[0] + 0.06, 1.65), 0.11, 0.14, corners=12)),
        ]
        return [mount, _placed(RIDER, rider, t, s, 0.0, 0.0, flip)]
    wheel = [("bicycle-wheel", bar((0, 0), (0, 0.68), 0.075))]
    wheel += [("bicycle-frame", bar((-0.3, 1.03), (0.3, 1.03), 0.05))]
    low = float(rng.uniform(0.12, 0.4))
    rider = [
        ("rider-legs", bar((-0.1, 0.95), (-0.13, low), 0.17, 0.1)),
        ("rider-legs", bar((0.1, 0.95), (0.13, 0.52 - low), 0.17, 0.1)),
        ("rider-torso", [(x * 1.75, y * 1.72) for x, y in _torso(0.5, 0.85)]),
        ("rider-arm", bar((-0.21, 1.38), (-0.29, 1.05), 0.1, 0.08)),
        ("rider-arm", bar((0.21, 1.38), (0.29, 1.05), 0.1, 0.08)),
        ("rider-head", disc((0.0, 1.62), 0.1, 0.14, corners=12)),
    ]
    return [
        _placed(BICYCLE, wheel, t, s, 0.0, 0.0, flip),
        _placed(RIDER, rider, t, s, 0.0, 0.0, flip),
    ]


def bicycle(
    rng: np.random.Generator,
    *,
    t: float,
    s: float,
    turn: float,
    flip: float = 1.0,
    ground: float = 0.0,
) -> Thing:
    """A bicycle from the side, `turn` radians out of the image plane."""
    r = float(rng.uniform(0.31, 0.36))
    frame = [(-0.5, r), (-0.2, 0.84), (0.34, 0.84), (0.0, r - 0.04)]
    parts = [
        ("bicycle-wheel", disc((-0.52, r), r)),
        ("bicycle-wheel", disc((0.52, r), r)),
        ("bicycle-frame", frame),
        ("bicycle-frame", bar((0.52, r), (0.38, 1.0), 0.05)),
        ("bicycle-frame", bar((0.28, 1.02), (0.5, 1.02), 0.05)),
        ("bicycle-saddle", bar((-0.33, 0.92), (-0.08, 0.92), 0.07)),
        ("bicycle-frame", bar((-0.2, 0.9), (-0.1, 0.5), 0.05)),
    ]
    return _placed(BICYCLE, parts, t, s, turn, ground, flip)


def motorcycle(
    rng: np.random.Generator, *, t: float, s: float, turn: float, ground: float = 0.0
) -> Thing:
    """A parked motorcycle or scooter from the side, `turn` radians out of the image plane."""
    seat = float(rng.uniform(0.72, 0.85))
    body = [(-0.85, 0.62), (-0.7, seat + 0.05), (-0.1, seat), (0.25, 0.98), (0.5, 0.9), (0.3, 0.3)]
    parts = [
        ("motorcycle-wheel", disc((-0.62, 0.3), 0.3)),
        ("motorcycle-wheel", disc((0.66, 0.3), 0.3)),
        ("motorcycle-body", [*body, (-0.45, 0.25)]),
        ("motorcycle-body", bar((0.66, 0.3), (0.36, 1.02), 0.1)),
        ("motorcycle-body", bar((0.2, 1.06), (0.46, 1.02), 0.08)),
    ]
    return _placed(MOTORCYCLE, parts, t, s, turn, ground, float(rng.choice([-1.0, 1.0])))


def _placed(
    label: int,
    parts: list[tuple[str, list[tuple[float, float]]]],
    t: float,
    s: float,
    turn: float,
    ground: float,
    flip: float,
) -> Thing:
    faces: list[Face] = []
    for kind, outline in parts:
        u_y: Points = np.array(outline) * [flip, 1.0] + [0.0, ground]
        faces.append(upright(label, kind, u_y, t=t, s=s, turn=turn))
    return Thing(order=s, faces=tuple(faces))


def _torso(hem: float, shoulders: float) -> list[tuple[float, float]]:
    return [
        (-0.10, hem),
        (0.10, hem),
        (0.095, 0.62),
        (0.13, shoulders - 0.03),
        (0.06, shoulders + 0.02),
        (-0.06, shoulders + 0.02),
        (-0.13, shoulders - 0.03),
        (-0.095, 0.62),
    ]


def _foot(x: float, stride: float) -> list[tuple[float, float]]:
    toe = 0.05 if stride >= 0 else -0.05
    return [(x - 0.025, 0), (x + 0.025 + toe, 0), (x + 0.03, 0.035), (x - 0.03, 0.035)]
