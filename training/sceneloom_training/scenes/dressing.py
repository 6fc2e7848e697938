"""What stands beside the road: houses, gardens, trees and street furniture."""

from __future__ import annotations

import dataclasses

import numpy as np

from sceneloom_training.scenes.buildings import cross_row, house_row, raise_house, skyline
from sceneloom_training.scenes.furniture import (
    barrier,
    bollards,
    clutter,
    lamp,
    sign,
    signpost,
    traffic_light,
)
from sceneloom_training.scenes.greenery import bush, hedge, tree
from sceneloom_training.scenes.ids import BUILDING, VEGETATION
from sceneloom_training.scenes.plan import Plan, Side
from sceneloom_training.scenes.solids import Thing

Span = tuple[float, float]
_HORIZON = 1e5
"""Painting order of what is behind everything but the ground."""


def put_up_houses(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    """Houses on both sides, what fills the gaps between them, side streets, and the skyline."""
    things = skyline(
        rng, s=plan.length, tallest=float(rng.uniform(7, 20)), green=float(rng.random())
    )
    for side in plan.sides:
        things.append(_behind(rng, plan, side))
        if side.park:
            things += _plant_park(rng, plan, side)
            continue
        line = side.sign * side.building_line
        row = (float(rng.uniform(-8, 2)), plan.length)
        crossing = (plan.crossing[0] - 2, plan.crossing[1] + 2) if plan.crossing else None
        houses, gaps = house_row(rng, plan.quarter, line=line, s=row, crossing=crossing)
        things += [raise_house(rng, house) for house in houses]
        for gap in gaps:
            things += _fill_gap(rng, line, gap)
        if crossing:
            corner = max(abs(h.front) + h.depth for h in houses)
            things += cross_row(
                rng, plan.quarter, line=side.sign * corner, s=crossing[1], until=side.sign * 110
            )
        if side.yard:
            things += _front_gardens(rng, plan, side)
    return things


def put_up_furniture(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    """Trees, lamps, signs, traffic lights, bollards and clutter along both kerbs."""
    things: list[Thing] = []
    for side in plan.sides:
        kerb = side.sign * (side.kerb + 0.45)
        if np.isfinite(side.trees):
            things += _tree_row(rng, plan, side)
        if rng.random() < 0.7:
            gap, tall = float(rng.uniform(16, 34)), float(rng.uniform(5, 9))
            for s in _every(rng, gap, plan):
                things.append(lamp(rng, t=kerb, s=s, tall=tall, towards=-side.sign))
        for _ in range(int(rng.poisson(2.2))):
            things.append(sign(rng, t=kerb, s=_somewhere(rng, plan, 8, 70)))
        if rng.random() < 0.12:
            things.append(signpost(rng, t=kerb * 1.1, s=_somewhere(rng, plan, 18, 60)))
        if rng.random() < 0.2:
            start = float(rng.uniform(5, 20))
            row = (start, start + float(rng.uniform(6, 25)))
            things += _free(bollards(t=kerb, s=row, gap=float(rng.uniform(1.2, 2))), plan)
        if rng.random() < 0.14:
            start = float(rng.uniform(6, 25))
            end = start + float(rng.uniform(5, 20))
            if not (in_crossing(plan, start) or in_crossing(plan, end)):
                rail = barrier(rng, t=kerb, s=(start, end), wall=False, tall=(0.85, 1.15))
                things.append(rail)
        for _ in range(int(rng.poisson(1.6))):
            t = side.sign * float(rng.uniform(side.kerb + 0.7, side.property_line))
            things.append(clutter(rng, t=t, s=_somewhere(rng, plan, 9, 60)))
    return things + _signals(rng, plan)


def in_crossing(plan: Plan, s: float, margin: float = 3.0) -> bool:
    """True where a side street or a pedestrian crossing is kept free."""
    if plan.zebra is not None and plan.zebra - 1.5 < s < plan.zebra + 4.5:
        return True
    return plan.crossing is not None and (plan.crossing[0] - margin < s < plan.crossing[1] + margin)


def _behind(rng: np.random.Generator, plan: Plan, side: Side) -> Thing:
    """The low mass of leaves or roofs that shows through the gaps of a row."""
    green = side.park or rng.random() < 0.6
    far = hedge(
        rng,
        t=side.sign * (side.building_line + (30 if side.park else 24)),
        s=(3.0, plan.length + 30),
        tall=float(rng.uniform(5, 11) if side.park else rng.uniform(3, 7)),
        ragged=0.45 if green else 0.1,
        label=VEGETATION if green else BUILDING,
        kind="far-trees" if green else "far-house",
    )
    faces = tuple(dataclasses.replace(face, order=_HORIZON) for face in far.faces)
    return Thing(order=_HORIZON, faces=faces)


def _fill_gap(rng: np.random.Generator, line: float, gap: Span) -> list[Thing]:
    """A tree, a wall, a fence or a hedge between two houses."""
    side = float(np.sign(line))
    s0, s1 = max(gap[0], 1.0), gap[1]
    if s1 - s0 < 1:
        return []
    things = []
    if rng.random() < 0.6:
        tall = float(rng.uniform(4, 10))
        things.append(tree(rng, t=line + side * float(rng.uniform(2, 6)), s=s1, tall=tall))
    choice = rng.random()
    if choice < 0.5:
        things.append(barrier(rng, t=line, s=(s0, s1), wall=choice < 0.25))
    elif choice < 0.8:
        tall = float(rng.uniform(1.2, 2.5))
        things.append(hedge(rng, t=line, s=(s0, s1), tall=tall, ragged=0.15))
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
        if in_crossing(plan, s):
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


def _tree_row(rng: np.random.Generator, plan: Plan, side: Side) -> list[Thing]:
    tall = float(rng.uniform(5, 11))
    inset = min(side.verge / 2, 1.0) if side.verge else 0.8
    t = side.sign * (side.kerb + inset)
    things = []
    for s in _every(rng, side.trees, plan, first=7.0):
        if rng.random() < 0.85:
            height = tall * float(rng.uniform(0.75, 1.2))
            things.append(tree(rng, t=t, s=s, tall=height))
    return things


def _signals(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    """Traffic lights at the side street or the pedestrian crossing."""
    if plan.zebra is None or rng.random() < 0.35:
        return []
    things = []
    stops = [plan.zebra - 0.6] + ([plan.crossing[1] + 1] if plan.crossing else [])
    for s in stops:
        for side in plan.sides:
            overhang = side.sign > 0 and rng.random() < 0.45
            reach = -side.sign * float(rng.uniform(3, 5)) if overhang else 0.0
            things.append(traffic_light(rng, t=side.sign * (side.kerb + 0.5), s=s, reach=reach))
    return things


def _every(rng: np.random.Generator, gap: float, plan: Plan, first: float = 5.0) -> list[float]:
    """Positions about `gap` apart along the street, without side streets and crossings."""
    at = np.arange(first + float(rng.uniform(0, gap)), min(plan.length, 150), gap)
    moved = (at + rng.normal(0, 0.06 * gap, len(at))).tolist()
    return [s for s in moved if not in_crossing(plan, s)]


def _somewhere(rng: np.random.Generator, plan: Plan, low: float, high: float) -> float:
    """A random position along the street, denser near than far, outside crossings."""
    s = float(low * (high / low) ** rng.random())
    if in_crossing(plan, s) and plan.zebra is not None:
        return plan.zebra - float(rng.uniform(1.6, 5))
    return s


def _free(things: list[Thing], plan: Plan) -> list[Thing]:
    return [thing for thing in things if not in_crossing(plan, thing.order)]
