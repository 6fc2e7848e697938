"""The ground: road, parking strips, kerbs, pavements, verges, side streets and markings."""

from __future__ import annotations

import dataclasses

import numpy as np

from sceneloom_streets.camera import NEAR
from sceneloom_streets.ids import GROUND, ROAD, SIDEWALK, TERRAIN, VEGETATION
from sceneloom_streets.plan import LANE, Plan, Side
from sceneloom_streets.solids import Face, Thing, across, flat

KERB_HEIGHT = 0.13
FURTHEST = 500.0
_FLAT = 1e6
"""Painting order of the ground: behind everything that stands on it."""


def lay_ground(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    """All level surfaces of a street, in the order in which they cover each other."""
    beyond = int(rng.choice([TERRAIN, SIDEWALK, GROUND], p=[0.45, 0.45, 0.1]))
    wide = 4 * FURTHEST
    layers: list[list[Face]] = [
        [flat(beyond, "beyond", [(-wide, NEAR), (wide, NEAR), (wide, 2000), (-wide, 2000)])],
        [_strip(ROAD, "road", -plan.left.kerb, plan.right.kerb)],
        *(_lay_side(side) for side in plan.sides),
    ]
    if plan.crossing:
        near, far = plan.crossing
        side_street: list[Face] = []
        for side in plan.sides:
            # A little over the road, so that no slit of kerb shows between them where it bends.
            t0, t1 = side.sign * (side.edge - 1.0), side.sign * 150.0
            pavement = side.sign * side.kerb
            for low, high in ((near - 2.5, near), (far, far + 2.5)):
                corners = [(pavement, low), (t1, low), (t1, high), (pavement, high)]
                side_street.append(flat(SIDEWALK, "pavement", corners, KERB_HEIGHT))
            corners = [(t0, near), (t1, near), (t1, far), (t0, far)]
            side_street.append(flat(ROAD, "road", corners))
            # Only the far kerb faces the camera.
            span, rise = (pavement, t1), (0.0, KERB_HEIGHT)
            side_street.append(across(SIDEWALK, "kerb", s=far, t=span, y=rise))
        layers.append(side_street)
    markings = []
    if plan.zebra is not None:
        for t in np.arange(-plan.left.edge + 0.3, plan.right.edge - 0.5, 1.0):
            stripe = float(t), float(t) + 0.5
            markings.append(_marking("zebra", stripe, (plan.zebra, plan.zebra + 3.0)))
    dash, gap = (3.0, 6.0) if rng.random() < 0.7 else (30.0, 0.1)
    lanes = [-LANE * (0.5 + i) for i in range(plan.oncoming)]
    busy = [plan.crossing] if plan.crossing else []
    busy += [(plan.zebra - 1, plan.zebra + 4)] if plan.zebra is not None else []
    for line in [*lanes, *([LANE / 2] if plan.right.edge > LANE else [])]:
        for s in np.arange(float(rng.uniform(1, 6)), 90.0, dash + gap).tolist():
            if not any(a < s + dash and s < b for a, b in busy):
                markings.append(_marking("lane-line", (line - 0.07, line + 0.07), (s, s + dash)))
    layers.append(markings)
    return [Thing(order=_FLAT - i, faces=tuple(faces)) for i, faces in enumerate(layers)]


def _lay_side(side: Side) -> list[Face]:
    """The strips of one side, from the road outward."""
    faces = []
    at = side.edge
    if side.parking:
        faces.append(_strip(side.parking_label, "parking", *_span(side, at, side.kerb)))
    at = side.kerb
    lengthwise = np.geomspace(NEAR, FURTHEST, 40)
    low = np.column_stack([np.full(40, side.sign * at), np.zeros(40), lengthwise])
    high = np.column_stack([np.full(40, side.sign * at), np.full(40, KERB_HEIGHT), lengthwise])
    faces.append(Face(label=SIDEWALK, kind="kerb", points=np.concatenate([low, high[::-1]])))
    if side.verge:
        faces.append(_strip(SIDEWALK, "kerbstone", *_span(side, at, at + 0.25), KERB_HEIGHT))
        faces.append(
            _strip(TERRAIN, "verge", *_span(side, at + 0.25, at + side.verge), KERB_HEIGHT)
        )
        at += side.verge
    faces.append(_strip(SIDEWALK, "pavement", *_span(side, at, side.property_line), KERB_HEIGHT))
    outer = side.building_line + 12
    if side.park:
        faces.append(_strip(TERRAIN, "lawn", *_span(side, side.property_line, outer), KERB_HEIGHT))
    elif side.yard:
        label = TERRAIN if side.yard > 2.5 else VEGETATION
        line = side.building_line + 2.5
        faces.append(_strip(label, "garden", *_span(side, side.property_line, line), KERB_HEIGHT))
    else:
        line = side.building_line + 2.5
        faces.append(
            _strip(SIDEWALK, "forecourt", *_span(side, side.property_line, line), KERB_HEIGHT)
        )
    return faces


def _marking(kind: str, t: tuple[float, float], s: tuple[float, float]) -> Face:
    """A white rectangle, as a detail of the road."""
    (t0, t1), (s0, s1) = t, s
    face = flat(ROAD, kind, [(t0, s0), (t1, s0), (t1, s1), (t0, s1)])
    return dataclasses.replace(face, detail=True)


def _span(side: Side, inner: float, outer: float) -> tuple[float, float]:
    return side.sign * inner, side.sign * outer


def _strip(label: int, kind: str, t0: float, t1: float, y: float = 0.0) -> Face:
    """A strip along the whole street; its corners are dense enough to follow the bend."""
    at = np.geomspace(NEAR, FURTHEST, 40).tolist()
    return flat(label, kind, [*((t0, s) for s in at), *((t1, s) for s in reversed(at))], y)
