"""Traffic: vehicles in lanes and along kerbs, people and riders."""

from __future__ import annotations

import numpy as np

from sceneloom_streets.figures import bicycle, cyclist, motorcycle, pedestrian
from sceneloom_streets.ground import KERB_HEIGHT
from sceneloom_streets.plan import LANE, Plan
from sceneloom_streets.solids import Thing
from sceneloom_streets.vehicles import half_extent, vehicle

_FURTHEST = 130.0
AWAY, TOWARDS = 0.0, np.pi
"""Yaws of vehicles."""
_KINDS = ("car", "truck", "bus")
_CHANCES = (0.86, 0.08, 0.06)


def fill_lanes(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    """Moving vehicles: at least one car, in the camera's lane or the nearest oncoming one."""
    things: list[Thing] = []
    lanes = [(0.0, AWAY)] + [(-LANE * (1 + i), TOWARDS) for i in range(plan.oncoming)]
    if plan.right.edge > LANE:
        lanes.append((LANE, AWAY))
    shown = int(rng.integers(min(2, len(lanes))))
    for i, (t, yaw) in enumerate(lanes):
        first = float(rng.uniform(9, 30)) if i == shown else float(rng.uniform(7, 4 * plan.traffic))
        if t == 0.0:
            first = max(first, 9.0)
        at = first
        while at < min(_FURTHEST, plan.length):
            small = at < 12 or (i == shown and at == first)
            kind = "car" if small else str(_KINDS[int(rng.choice(3, p=_CHANCES))])
            half = half_extent(kind, yaw)
            offset, turn = float(rng.normal(0, 0.2)), float(rng.normal(0, 0.02))
            things.append(vehicle(rng, kind, t=t + offset, s=at + half, yaw=yaw + turn))
            at += 2 * half + 2.0 + float(rng.exponential(plan.traffic))
    if plan.crossing and rng.random() < 0.55:
        yaw = float(rng.choice([-1, 1])) * np.pi / 2
        s = plan.crossing[0] + (0.3 if yaw > 0 else 0.7) * (plan.crossing[1] - plan.crossing[0])
        for t in rng.uniform(-30, 30, int(rng.integers(1, 4))):
            if abs(t) > plan.left.edge + 3:
                things.append(vehicle(rng, "car", t=float(t), s=float(s), yaw=float(yaw)))
    return things


def park_vehicles(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    """Parked cars, and now and then a lorry, along the parking strips."""
    things: list[Thing] = []
    for side in plan.sides:
        if not side.parking:
            continue
        at = float(rng.uniform(1.5, 6))
        while at < min(_FURTHEST, plan.length):
            kind = "truck" if at > 15 and rng.random() < 0.02 else "car"
            if side.slanted:
                yaw = side.sign * float(rng.choice([0.5, -0.5])) * np.pi
                yaw += float(rng.normal(0, 0.04))
            else:
                yaw = AWAY if side.sign > 0 else TOWARDS
                yaw += np.pi if rng.random() < 0.15 else 0.0
                yaw += float(rng.normal(0, 0.03))
            half = half_extent(kind, yaw) - (0.5 if kind == "car" else 0)
            t = side.sign * (side.edge + side.parking / 2 + float(rng.normal(0, 0.08)))
            if rng.random() < side.parked and not plan.keeps_free(at + half, 6.0):
                things.append(vehicle(rng, kind, t=t, s=at + half, yaw=yaw))
            at += 2 * half + float(rng.uniform(0.2, 1.2))
    return things


def add_people(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    """People on the pavements and crossings, riders in the road, bicycles against the kerb."""
    things: list[Thing] = []
    for side in plan.sides:
        for _ in range(int(rng.poisson(side.people))):
            # One to three walk together.
            s = 1 / float(rng.uniform(1 / 60, 1 / 7))
            middle = float(rng.uniform(side.kerb + side.verge + 0.4, side.property_line - 0.3))
            for i in range(int(rng.choice([1, 2, 3], p=[0.65, 0.27, 0.08]))):
                t, at = side.sign * (middle + 0.6 * i), s + float(rng.uniform(0, 0.8))
                things.append(pedestrian(rng, t=t, s=at, ground=KERB_HEIGHT))
        if rng.random() > 0.35:
            continue
        s = float(rng.uniform(7, 28))
        t = side.sign * float(rng.uniform(side.kerb + 0.8, side.property_line - 0.4))
        turn = float(rng.choice([0.15, 0.8, 1.3]))
        for i in range(int(rng.integers(1, 5))):
            at = s + 0.9 * i
            if plan.keeps_free(at):
                continue
            if rng.random() < 0.25:
                things.append(motorcycle(rng, t=t, s=at, turn=turn, ground=KERB_HEIGHT))
            else:
                flip = float(rng.choice([-1.0, 1.0]))
                things.append(bicycle(rng, t=t, s=at, turn=turn, flip=flip, ground=KERB_HEIGHT))
    if plan.zebra is not None and rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 5))):
            t = float(rng.uniform(-plan.left.kerb, plan.right.kerb))
            things.append(pedestrian(rng, t=t, s=plan.zebra + float(rng.uniform(0.3, 2.7))))
    for side in plan.sides:
        if rng.random() < 0.22:
            t = side.sign * (side.edge - 0.6)
            things += cyclist(rng, t=t, s=float(rng.uniform(8, 32)), sideways=False)
    if plan.crossing and rng.random() < 0.3:
        s = float(rng.uniform(*plan.crossing))
        t = float(rng.uniform(-plan.left.kerb - 4, plan.right.kerb + 4))
        things += cyclist(rng, t=t, s=s, sideways=True)
    return things
