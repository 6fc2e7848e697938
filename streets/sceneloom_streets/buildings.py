"""Rows of houses: facades, end walls, roofs, windows, and the skyline at the street's end."""

from __future__ import annotations

import dataclasses

import numpy as np

from sceneloom_streets.greenery import blob
from sceneloom_streets.ids import BUILDING, VEGETATION
from sceneloom_streets.solids import Face, Points, Thing, across, along, bar, upright

STOREY = 3.1
_WINDOWS_UNTIL = 90.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class District:
    """Range of sizes and forms of the houses of one scene."""

    storeys: float
    """Mean number of storeys."""
    spread: float
    """Standard deviation of the number of storeys."""
    frontage: tuple[float, float]
    """Metres of street per house, smallest and largest."""
    setback: float
    """Largest setback of a house behind the building line, in metres."""
    gaps: float
    """Chance of a gap before a house, 0..1."""
    pitched: float
    """Chance of a pitched roof rather than a flat one, 0..1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class House:
    """One house of a row along the street."""

    front: float
    """Signed metres from the camera's line to the facade: negative on the left."""
    near: float
    """Metres ahead to its near end."""
    far: float
    """Metres ahead to its far end."""
    depth: float
    """Metres from the facade to its back."""
    eaves: float
    """Metres up to the eaves."""
    ridge: float
    """Metres from the eaves up to the ridge; 0 is a flat roof."""


def house_row(
    rng: np.random.Generator,
    district: District,
    *,
    line: float,
    s: tuple[float, float],
    crossing: tuple[float, float] | None,
) -> tuple[list[House], list[tuple[float, float]]]:
    """Houses of one side of the street, near to far, and the gaps between them (start, end).

    `line` is the building line in signed metres from the camera's line. `s` and the free `crossing`
    are start and end in metres ahead.
    """
    side = np.sign(line)
    houses: list[House] = []
    gaps: list[tuple[float, float]] = []
    at = s[0]
    while at < s[1]:
        wide = float(rng.uniform(*district.frontage))
        if rng.random() < district.gaps:
            gap = float(rng.uniform(2.0, 11.0))
            gaps.append((at, at + gap))
            at += gap
        if crossing and at < crossing[1] and at + wide > crossing[0]:
            if crossing[0] - at < district.frontage[0] * 0.6:
                at = max(at, crossing[1])
            else:
                wide = crossing[0] - at
        pitched = rng.random() < district.pitched
        houses.append(
            House(
                front=line + side * district.setback * float(rng.random()) ** 2,
                near=at,
                far=at + wide,
                depth=float(rng.uniform(9, 14)),
                eaves=_eaves(rng, district),
                ridge=float(rng.uniform(2.0, 4.2)) if pitched else 0.0,
            )
        )
        at += wide
    return houses, gaps


def raise_house(rng: np.random.Generator, house: House) -> Thing:
    """The faces of a house that are visible from the street."""
    side = float(np.sign(house.front))
    back = house.front + side * house.depth
    ends = (house.near, house.far)
    faces: list[Face] = []
    if house.ridge:
        middle, top = (house.front + back) / 2, house.eaves + house.ridge
        slope = [
            (house.front, house.eaves, house.near),
            (house.front, house.eaves, house.far),
            (middle, top, house.far),
            (middle, top, house.near),
        ]
        faces.append(Face(label=BUILDING, kind="roof", points=np.array(slope)))
        gable = [(house.front, house.eaves), (back, house.eaves), (middle, top)]
        faces.append(upright(BUILDING, "gable", gable, t=0.0, s=house.near))
    faces.append(
        across(BUILDING, "end-wall", s=house.near, t=(house.front, back), y=(0.0, house.eaves))
    )
    faces.append(along(BUILDING, "facade", t=house.front, s=ends, y=(0.0, house.eaves)))
    # Chimneys, dormers or lift housings break the line of the eaves.
    for _ in range(int(rng.integers(0, 4))):
        s = float(rng.uniform(house.near + 0.5, house.far - 0.5))
        t = house.front + (back - house.front) * float(rng.uniform(0.1, 0.6))
        wide, tall = float(rng.uniform(0.6, 2.2)), float(rng.uniform(0.8, 1.8))
        base = house.eaves - 0.2
        outline = bar((0, base), (0, base + house.ridge * 0.8 + tall), wide)
        faces.append(upright(BUILDING, "roof-box", outline, t=t, s=s))
    if house.near < _WINDOWS_UNTIL:
        start, end = np.array([house.front, 0, house.near]), np.array([house.front, 0, house.far])
        faces += openings(rng, start, end, house.eaves)
    return Thing(order=house.far, faces=tuple(faces))


def cross_row(
    rng: np.random.Generator, district: District, *, line: float, s: float, until: float
) -> list[Thing]:
    """Houses that face the camera across a side street at `s`, from `line` to `until` in signed
    metres from the camera's line.
    """
    side = float(np.sign(line))
    things = []
    at = abs(line)
    while at < abs(until):
        wide = float(rng.uniform(*district.frontage))
        eaves = _eaves(rng, district)
        front = s + district.setback * float(rng.random()) ** 2
        t = (side * at, side * (at + wide))
        faces = [across(BUILDING, "facade", s=front, t=t, y=(0.0, eaves))]
        if rng.random() < district.pitched:
            top = eaves + float(rng.uniform(2.0, 4.0))
            ridge = [(t[0], eaves), (t[1], eaves), (t[1] - side, top), (t[0] + side, top)]
            faces.insert(0, upright(BUILDING, "roof", ridge, t=0.0, s=front + 4))
        start, end = np.array([min(t), 0, front]), np.array([max(t), 0, front])
        faces += openings(rng, start, end, eaves)
        # Behind everything of the side street, but before the street's own houses beyond it.
        things.append(Thing(order=s + 0.5, faces=tuple(faces)))
        at += wide
    return things


def openings(rng: np.random.Generator, start: Points, end: Points, eaves: float) -> list[Face]:
    """Windows, doors and shops of a facade with the lower corners `start` and `end` (t, 0, s)."""
    wide = float(np.linalg.norm(end - start))
    columns = max(1, round(wide / float(rng.uniform(2.2, 3.4))))
    pane, tall = float(rng.uniform(0.4, 0.62)), float(rng.uniform(1.3, 1.9))
    shops = rng.random() < 0.35
    way = end - start
    faces = []
    for storey in range(max(1, int(eaves // STOREY))):
        ground = storey == 0
        y0, y1 = storey * STOREY + 0.95, storey * STOREY + 0.95 + tall
        kind = "window"
        if ground and shops:
            kind, y0, y1 = "shop-window", 0.4, 2.7
        door = int(rng.integers(columns)) if ground else -1
        for column in range(columns):
            share = 0.9 if kind == "shop-window" else pane
            a = start + way * ((column + 0.5 - share / 2) / columns)
            b = start + way * ((column + 0.5 + share / 2) / columns)
            low, high = (0.0, 2.3) if column == door else (y0, y1)
            corners = np.array([a, b, b, a])
            corners[:, 1] = (low, low, high, high)
            faces.append(
                Face(
                    label=BUILDING,
                    kind="door" if column == door else kind,
                    points=corners,
                    detail=True,
                )
            )
    return faces


def skyline(rng: np.random.Generator, *, s: float, tallest: float, green: float) -> list[Thing]:
    """Far houses and trees (share `green`, 0..1) at `s`, up to `tallest` metres high."""
    things = []
    at = -1.1 * s
    while at < 1.1 * s:
        wide = float(rng.uniform(8, 30))
        tall = tallest * float(rng.uniform(0.3, 1.0))
        far = s + float(rng.uniform(0, 25))
        if rng.random() < green:
            outline = blob(rng, (at + wide / 2, tall * 0.35), wide * 0.8, tall * 0.6)
            outline[:, 1] = np.maximum(outline[:, 1], 0)
            faces = [upright(VEGETATION, "far-trees", outline, t=0.0, s=far)]
        else:
            faces = [across(BUILDING, "far-house", s=far, t=(at, at + wide), y=(0.0, tall))]
            if rng.random() < 0.5:
                peak = [(at, tall), (at + wide, tall), (at + wide / 2, tall * 1.25)]
                faces.append(upright(BUILDING, "far-roof", peak, t=0.0, s=far))
        things.append(Thing(order=far, faces=tuple(faces)))
        at += wide * float(rng.uniform(0.8, 1.05))
    return things


def _eaves(rng: np.random.Generator, district: District) -> float:
    """Metres up to the eaves of one house."""
    storeys = max(1, round(float(rng.normal(district.storeys, district.spread))))
    return storeys * STOREY + float(rng.uniform(0.3, 1.2))
