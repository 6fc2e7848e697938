"""The roadside: rows of houses, gardens, trees and street furniture.

`add_houses` and `add_furniture` place the things of `buildings`, `greenery` and the other functions
here. Lengths are in metres.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sceneloom_streets import ids
from sceneloom_streets.buildings import cross_row, house_row, raise_house, skyline
from sceneloom_streets.greenery import bush, hedge, tree
from sceneloom_streets.plan import Plan, Side
from sceneloom_streets.solids import Face, Thing, along, bar, disc, pieces, upright

Outline = list[tuple[float, float]]
_HORIZON = 1e5
"""Painting order behind everything but the ground."""


def add_houses(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    """Houses on both sides, hedges and walls in their gaps, side streets, and the skyline."""
    things = skyline(
        rng, s=plan.length, tallest=float(rng.uniform(7, 20)), green=float(rng.random())
    )
    for side in plan.sides:
        # A low mass of leaves or roofs shows through the gaps of the row.
        green = side.park or rng.random() < 0.6
        far = hedge(
            rng,
            t=side.sign * (side.building_line + (30 if side.park else 24)),
            s=(3.0, plan.length + 30),
            tall=float(rng.uniform(5, 11) if side.park else rng.uniform(3, 7)),
            ragged=0.45 if green else 0.1,
            label=ids.VEGETATION if green else ids.BUILDING,
            kind="far-trees" if green else "far-house",
        )
        faces = tuple(dataclasses.replace(face, order=_HORIZON) for face in far.faces)
        things.append(Thing(order=_HORIZON, faces=faces))
        if side.park:
            things += _plant_park(rng, plan, side)
            continue
        line = side.sign * side.building_line
        row = (float(rng.uniform(-8, 2)), plan.length)
        crossing = (plan.crossing[0] - 2, plan.crossing[1] + 2) if plan.crossing else None
        houses, gaps = house_row(rng, plan.district, line=line, s=row, crossing=crossing)
        things += [raise_house(rng, house) for house in houses]
        for start, end in gaps:
            start = max(start, 1.0)
            if end - start < 1:
                continue
            if rng.random() < 0.6:
                tall = float(rng.uniform(4, 10))
                t = line + side.sign * float(rng.uniform(2, 6))
                things.append(tree(rng, t=t, s=end, tall=tall))
            choice = rng.random()
            if choice < 0.5:
                things.append(barrier(rng, t=line, s=(start, end), wall=choice < 0.25))
            elif choice < 0.8:
                tall = float(rng.uniform(1.2, 2.5))
                things.append(hedge(rng, t=line, s=(start, end), tall=tall, ragged=0.15))
        if crossing:
            corner = max(abs(h.front) + h.depth for h in houses)
            things += cross_row(
                rng, plan.district, line=side.sign * corner, s=crossing[1], until=side.sign * 110
            )
        if side.yard:
            things += _front_gardens(rng, plan, side)
    return things


def add_furniture(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    """Trees, lamps, signs, traffic lights, bollards and clutter along both kerbs."""
    things: list[Thing] = []
    for side in plan.sides:
        kerb = side.sign * (side.kerb + 0.45)
        if np.isfinite(side.trees):
            tall = float(rng.uniform(5, 11))
            t = side.sign * (side.kerb + (min(side.verge / 2, 1.0) if side.verge else 0.8))
            for s in _regular_positions(rng, side.trees, plan, first=7.0):
                if rng.random() < 0.85:
                    things.append(tree(rng, t=t, s=s, tall=tall * float(rng.uniform(0.75, 1.2))))
        if rng.random() < 0.7:
            gap, tall = float(rng.uniform(16, 34)), float(rng.uniform(5, 9))
            for s in _regular_positions(rng, gap, plan):
                things.append(lamp(rng, t=kerb, s=s, tall=tall, towards=-side.sign))
        for _ in range(int(rng.poisson(2.2))):
            things.append(sign(rng, t=kerb, s=_random_position(rng, plan, 8, 70)))
        if rng.random() < 0.12:
            things.append(signpost(rng, t=kerb * 1.1, s=_random_position(rng, plan, 18, 60)))
        if rng.random() < 0.2:
            start = float(rng.uniform(5, 20))
            row = (start, start + float(rng.uniform(6, 25)))
            posts = bollards(t=kerb, s=row, gap=float(rng.uniform(1.2, 2)))
            things += [post for post in posts if not plan.keeps_free(post.order)]
        if rng.random() < 0.14:
            start = float(rng.uniform(6, 25))
            end = start + float(rng.uniform(5, 20))
            if not (plan.keeps_free(start) or plan.keeps_free(end)):
                rail = barrier(rng, t=kerb, s=(start, end), wall=False, tall=(0.85, 1.15))
                things.append(rail)
        for _ in range(int(rng.poisson(1.6))):
            t = side.sign * float(rng.uniform(side.kerb + 0.7, side.property_line))
            things.append(clutter(rng, t=t, s=_random_position(rng, plan, 9, 60)))
    # Traffic lights at the side street or the pedestrian crossing.
    if plan.zebra is not None and rng.random() >= 0.35:
        for s in [plan.zebra - 0.6] + ([plan.crossing[1] + 1] if plan.crossing else []):
            for side in plan.sides:
                overhang = side.sign > 0 and rng.random() < 0.45
                reach = -side.sign * float(rng.uniform(3, 5)) if overhang else 0.0
                t = side.sign * (side.kerb + 0.5)
                things.append(traffic_light(rng, t=t, s=s, reach=reach))
    return things


def _front_gardens(rng: np.random.Generator, plan: Plan, side: Side) -> list[Thing]:
    """Fences, walls and hedges along the pavement, bushes and small trees behind them."""
    things: list[Thing] = []
    at = float(rng.uniform(0.8, 4))
    while at < min(plan.length, 110):
        end = at + float(rng.uniform(5, 22))
        middle = (at + end) / 2
        if not (plan.crossing and plan.crossing[0] - 2 < end and at < plan.crossing[1] + 2):
            t = side.sign * side.property_line
            choice = rng.random()
            if choice < 0.35:
                tall = float(rng.uniform(0.8, 2.2))
                things.append(hedge(rng, t=t, s=(at, end), tall=tall, ragged=0.2))
            elif choice < 0.75:
                things.append(barrier(rng, t=t, s=(at, end), wall=choice < 0.5))
            garden = t + side.sign * side.yard * 0.5
            if rng.random() < 0.4:
                tall = float(rng.uniform(3, 7))
                things.append(tree(rng, t=garden, s=middle, tall=tall))
            elif rng.random() < 0.6:
                things.append(bush(rng, t=garden, s=middle, tall=float(rng.uniform(0.8, 2))))
        at = end + float(rng.uniform(0, 4))
    return things


def _plant_park(rng: np.random.Generator, plan: Plan, side: Side) -> list[Thing]:
    """Trees and bushes at random, behind a low fence, wall or hedge."""
    things: list[Thing] = []
    for _ in range(int(rng.integers(20, 45))):
        t = side.sign * (side.property_line + float(rng.uniform(1.5, 22)))
        s = float(rng.uniform(5, plan.length))
        if plan.keeps_free(s):
            continue
        if rng.random() < 0.75:
            things.append(tree(rng, t=t, s=s, tall=float(rng.uniform(5, 14))))
        else:
            things.append(bush(rng, t=t, s=s, tall=float(rng.uniform(0.8, 2.5))))
    if rng.random() < 0.6:
        start = float(rng.uniform(1, 10))
        end = plan.crossing[0] - 2 if plan.crossing else plan.length * float(rng.uniform(0.3, 1))
        line = side.sign * side.property_line
        if rng.random() < 0.5:
            things.append(barrier(rng, t=line, s=(start, end), wall=bool(rng.random() < 0.3)))
        else:
            tall = float(rng.uniform(0.8, 1.8))
            things.append(hedge(rng, t=line, s=(start, end), tall=tall, ragged=0.2))
    return things


def _regular_positions(
    rng: np.random.Generator, gap: float, plan: Plan, first: float = 5.0
) -> list[float]:
    """Positions about `gap` apart along the street, without side streets and crossings."""
    at = np.arange(first + float(rng.uniform(0, gap)), min(plan.length, 150), gap)
    moved = (at + rng.normal(0, 0.06 * gap, len(at))).tolist()
    return [s for s in moved if not plan.keeps_free(s)]


def _random_position(rng: np.random.Generator, plan: Plan, low: float, high: float) -> float:
    """A random position along the street, denser near than far, outside crossings."""
    s = float(low * (high / low) ** rng.random())
    if plan.keeps_free(s) and plan.zebra is not None:
        return plan.zebra - float(rng.uniform(1.6, 5))
    return s


def lamp(rng: np.random.Generator, *, t: float, s: float, tall: float, towards: float) -> Thing:
    """A street lamp; its arm points `towards` the road (-1 left, 1 right)."""
    arm = towards * float(rng.uniform(0.6, 2.2))
    parts = [
        (ids.POLE, "pole", bar((0, 0), (0, tall), 0.2, 0.11)),
        (ids.POLE, "pole", bar((0, tall - 0.05), (arm, tall + 0.3), 0.1)),
        (ids.STATIC, "lamp-head", bar((arm, tall + 0.28), (arm + towards * 0.7, tall + 0.34), 0.2)),
    ]
    return _standing(parts, t, s)


def sign(rng: np.random.Generator, *, t: float, s: float) -> Thing:
    """A pole with one or two traffic signs; some show their grey backs."""
    top = float(rng.uniform(2.2, 3.3))
    label, kind = (
        (ids.TRAFFIC_SIGN, "traffic-sign") if rng.random() < 0.85 else (ids.STATIC, "sign-back")
    )
    parts = [(ids.POLE, "pole", bar((0, 0), (0, top), 0.08))]
    parts.append((label, kind, _plate(rng, top)))
    if rng.random() < 0.35:
        parts.append((label, kind, bar((-0.3, top - 0.62), (0.3, top - 0.62), 0.26)))
    return _standing(parts, t, s)


def signpost(rng: np.random.Generator, *, t: float, s: float) -> Thing:
    """A large direction board on two posts."""
    wide, low = float(rng.uniform(1.4, 3.2)), float(rng.uniform(1.8, 2.6))
    high = low + float(rng.uniform(0.8, 1.8))
    parts = [
        (ids.POLE, "pole", bar((-wide * 0.35, 0), (-wide * 0.35, high), 0.12)),
        (ids.POLE, "pole", bar((wide * 0.35, 0), (wide * 0.35, high), 0.12)),
        (
            ids.TRAFFIC_SIGN,
            "direction-board",
            bar((-wide / 2, (low + high) / 2), (wide / 2, (low + high) / 2), high - low),
        ),
    ]
    return _standing(parts, t, s)


def traffic_light(rng: np.random.Generator, *, t: float, s: float, reach: float) -> Thing:
    """A traffic light on a pole; with `reach` (metres, signed) a second one hangs over the road."""
    low = float(rng.uniform(2.2, 2.7))
    parts = [
        (ids.POLE, "pole", bar((0, 0), (0, low + 1.1), 0.14)),
        (ids.TRAFFIC_LIGHT, "traffic-light", bar((0, low), (0, low + 0.95), 0.36)),
    ]
    if reach:
        tall = float(rng.uniform(4.9, 5.6))
        parts += [
            (ids.POLE, "pole", bar((0, 0), (0, tall + 0.4), 0.18)),
            (ids.POLE, "pole", bar((0, tall), (reach, tall + 0.35), 0.14)),
            (
                ids.TRAFFIC_LIGHT,
                "traffic-light",
                bar((reach, tall - 0.45), (reach, tall + 0.6), 0.4),
            ),
        ]
    elif rng.random() < 0.3:
        parts.append((ids.TRAFFIC_SIGN, "traffic-sign", _plate(rng, low + 1.75)))
        parts.append((ids.POLE, "pole", bar((0, low + 1), (0, low + 1.4), 0.1)))
    return _standing(parts, t, s)


def bollards(*, t: float, s: tuple[float, float], gap: float) -> list[Thing]:
    """A row of knee-high posts along the kerb."""
    return [
        _standing([(ids.POLE, "bollard", bar((0, 0), (0, 0.95), 0.13))], t, float(at))
        for at in np.arange(s[0], s[1], gap)
    ]


def clutter(rng: np.random.Generator, *, t: float, s: float) -> Thing:
    """A fixed thing without a class of its own: a bin, a cabinet, an advertising column."""
    kind = str(rng.choice(["bin", "cabinet", "column", "bench"], p=[0.45, 0.35, 0.06, 0.14]))
    wide, tall = {"bin": (0.6, 1.05), "cabinet": (1.0, 1.25), "column": (1.25, 2.9)}.get(
        kind, (1.6, 0.8)
    )
    wide, tall = wide * float(rng.uniform(0.8, 1.3)), tall * float(rng.uniform(0.85, 1.2))
    parts = [(ids.STATIC, kind, bar((0, 0), (0, tall), wide))]
    if kind == "column":
        parts.append((ids.STATIC, kind, disc((0, tall), wide * 0.6, 0.25)))
    elif rng.random() < 0.4:
        parts.append((ids.UNLABELLED, "litter", disc((wide * 0.7, 0.25), 0.28, 0.25, corners=7)))
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
    label, kind = (ids.WALL, "wall") if wall else (ids.FENCE, "fence")
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
