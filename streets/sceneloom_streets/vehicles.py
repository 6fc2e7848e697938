"""Cars, vans, lorries and buses: closed bodies lofted from level rings, on wheels.

A body is a stack of eight-cornered rings, each a rectangle with cut corners; the slabs between them
are its faces. Lamps and plates are details on top.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sceneloom_streets.ids import BUS, CAR, TRUCK
from sceneloom_streets.solids import Face, Thing

Ring = tuple[float, float, float, float]
"""Height in metres before stretching; rear, front, half width as fractions of length and width."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Body:
    """Form of a kind of vehicle."""

    label: int
    """Cityscapes label id."""
    name: str
    """First part of its faces' kinds."""
    length: tuple[float, float]
    """Metres, smallest and largest."""
    width: tuple[float, float]
    """Metres, smallest and largest."""
    height: tuple[float, float]
    """Metres, smallest and largest: the rings are stretched until the last one is there."""
    rings: tuple[Ring, ...]
    """From the sill up to the roof."""
    slabs: tuple[str, ...]
    """Kind of each slab, between one ring and the next."""
    axles: tuple[float, ...]
    """Positions of the wheels, as fractions of the length."""
    wheel: float = 0.32
    """Radius in metres."""


_CAR_SLABS = ("body", "body", "body", "deck", "glass", "roof")


def _car(
    name: str, length: tuple[float, float], height: tuple[float, float], *cabin: float
) -> Body:
    """A car; `cabin` is where the glass starts and the roof starts, ends, and the glass ends."""
    rear_glass, rear_roof, front_roof, front_glass = cabin
    return Body(
        label=CAR,
        name=name,
        length=length,
        width=(1.68, 1.9),
        height=height,
        rings=(
            (0.21, -0.46, 0.46, 0.46),
            (0.46, -0.50, 0.50, 0.50),
            (0.70, -0.495, 0.485, 0.50),
            (0.92, -0.475, 0.43, 0.485),
            (0.97, rear_glass, front_glass, 0.465),
            (1.42, rear_roof, front_roof, 0.375),
            (1.48, rear_roof + 0.04, front_roof - 0.05, 0.33),
        ),
        slabs=_CAR_SLABS,
        axles=(-0.30, 0.31),
    )


def _box(
    label: int,
    name: str,
    length: tuple[float, float],
    height: tuple[float, float],
    glass: tuple[float, float],
    slope: float,
) -> Body:
    """A bus or van: straight walls with a band of glass, the front leaning back by `slope`."""
    low, high = glass
    top = sum(height) / 2
    return Body(
        label=label,
        name=name,
        length=length,
        width=(2.4, 2.55) if label == BUS else (1.9, 2.1),
        height=height,
        rings=(
            (0.30, -0.49, 0.49, 0.48),
            (0.55, -0.50, 0.50, 0.50),
            (low, -0.50, 0.50 - slope / 4, 0.50),
            (high, -0.495, 0.49 - slope, 0.48),
            (top, -0.485, 0.46 - slope, 0.45),
        ),
        slabs=("body", "body", "glass", "roof"),
        axles=(-0.30, 0.32),
        wheel=0.48 if label == BUS else 0.35,
    )


CARS = (
    _car("hatchback", (3.7, 4.3), (1.42, 1.54), -0.47, -0.40, 0.04, 0.25),
    _car("saloon", (4.4, 4.9), (1.40, 1.48), -0.33, -0.20, 0.03, 0.20),
    _car("estate", (4.4, 4.8), (1.44, 1.54), -0.48, -0.43, 0.03, 0.20),
    _car("crossover", (4.2, 4.7), (1.62, 1.78), -0.47, -0.42, 0.05, 0.24),
    _box(CAR, "van", (4.8, 5.6), (1.9, 2.3), (1.15, 1.7), 0.14),
)
BUS_BODY = _box(BUS, "bus", (10.5, 12.5), (2.9, 3.2), (1.2, 2.5), 0.005)
_CARGO = Body(
    label=TRUCK,
    name="truck",
    length=(6.5, 9.0),
    width=(2.3, 2.5),
    height=(3.0, 3.7),
    rings=((0.75, -0.5, 0.2, 0.5), (1.0, -0.5, 0.2, 0.5), (3.3, -0.5, 0.2, 0.5)),
    slabs=("body", "cargo"),
    axles=(-0.34, -0.22, 0.36),
    wheel=0.48,
)
_CAB = dataclasses.replace(
    _CARGO,
    height=(2.6, 2.6),
    rings=(
        (0.45, 0.22, 0.49, 0.47),
        (0.6, 0.22, 0.50, 0.48),
        (1.5, 0.22, 0.50, 0.48),
        (2.35, 0.22, 0.48, 0.46),
        (2.6, 0.22, 0.46, 0.44),
    ),
    slabs=("body", "body", "glass", "roof"),
)


def vehicle(rng: np.random.Generator, kind: str, *, t: float, s: float, yaw: float) -> Thing:
    """A "car", "truck" or "bus" whose middle is `t` metres right and `s` metres ahead.

    `yaw` is in radians: 0 drives away from the camera, pi towards it, pi / 2 to the right.
    """
    if kind == "car":
        body = CARS[int(rng.choice(len(CARS), p=[0.34, 0.2, 0.2, 0.18, 0.08]))]
    else:
        body = BUS_BODY if kind == "bus" else _CARGO
    length, width = float(rng.uniform(*body.length)), float(rng.uniform(*body.width))
    height = float(rng.uniform(*body.height))
    panels = _loft(body, length, width, height)
    if body is _CARGO:
        panels += _loft(_CAB, length, width, _CAB.height[1])
    under, discs = _wheels(body, length, width)
    faces = [*under, *panels, *discs, *_lamps(body, length, width)]
    # The vehicle's own metres (right, up, forward) are turned and put on the street.
    points = np.concatenate([face.points for face in faces])
    ends = np.cumsum([len(face.points) for face in faces])
    starts = [0, *ends[:-1].tolist()]
    right, forward = points[:, 0].copy(), points[:, 2].copy()
    cos, sin = float(np.cos(yaw)), float(np.sin(yaw))
    points[:, 0] = t + right * cos + forward * sin
    points[:, 2] = s - right * sin + forward * cos
    distances = np.add.reduceat(points[:, 2], starts) / np.diff(ends, prepend=0)
    placed = [
        dataclasses.replace(face, points=points[a:b])
        for face, a, b in zip(faces, starts, ends.tolist(), strict=True)
    ]
    # Far panels first: a closed body that is not convex (a bonnet before a cabin) hides itself.
    middle = range(len(under), len(under) + len(panels))
    order = [*range(len(under)), *sorted(middle, key=lambda i: -distances[i])]
    order += range(len(under) + len(panels), len(faces))
    return Thing(order=s, faces=tuple(placed[i] for i in order))


def half_extent(kind: str, yaw: float) -> float:
    """Metres along the street from a vehicle's middle to its furthest end, at most."""
    length = {"car": 5.6, "truck": 9.0, "bus": 12.5}[kind]
    return 0.5 * (length * abs(float(np.cos(yaw))) + 2.5 * abs(float(np.sin(yaw))))


def _loft(body: Body, length: float, width: float, height: float) -> list[Face]:
    """Panels of a body; lengths in metres."""
    top = body.rings[-1][0]
    rings = []
    for y, rear, front, half in body.rings:
        y, rear, front, half = y * height / top, rear * length, front * length, half * width
        cut = min(0.28, 0.3 * half, 0.3 * (front - rear))
        # Corners (right, forward), anticlockwise as seen from above.
        plan = [
            (half - cut, rear),
            (half, rear + cut * 0.6),
            (half, front - cut),
            (half - cut * 1.2, front),
            (-half + cut * 1.2, front),
            (-half, front - cut),
            (-half, rear + cut * 0.6),
            (-half + cut, rear),
        ]
        rings.append(np.array([(x, y, z) for x, z in plan]))
    faces = []
    for kind, lower, upper in zip(body.slabs, rings, rings[1:], strict=False):
        for i in range(8):
            j = (i + 1) % 8
            quad = np.array([lower[i], lower[j], upper[j], upper[i]])
            kind_of = f"{body.name}-{kind}"
            faces.append(Face(label=body.label, kind=kind_of, points=quad, solid=True))
    faces.append(Face(label=body.label, kind=f"{body.name}-roof", points=rings[-1], solid=True))
    return faces


def _wheels(body: Body, length: float, width: float) -> tuple[list[Face], list[Face]]:
    """The visible parts of the wheels below the body, and their outer discs."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    up, forward = body.wheel * (1 + np.cos(angles)), body.wheel * np.sin(angles)
    under: list[Face] = []
    discs: list[Face] = []
    for axle in body.axles:
        for side in (-1, 1):
            outer, inner = side * 0.49 * width, side * (0.49 * width - 0.21)
            for x, faces in ((inner, under), (outer, discs)):
                rim = np.column_stack([np.full(12, x), up, forward + axle * length])[::-side]
                kind = f"{body.name}-wheel"
                faces.append(Face(label=body.label, kind=kind, points=rim, solid=x == outer))
            for end in (-0.5, 0.5):
                # The tyre below a bumper: the rim is this high half a radius from the axle.
                low, top = 0.134 * body.wheel, 1.7 * body.wheel
                z = axle * length + end * body.wheel
                tread = [(inner, low, z), (outer, low, z), (outer, top, z), (inner, top, z)]
                kind, points = f"{body.name}-tyre", np.array(tread)
                under.append(Face(label=body.label, kind=kind, points=points))
    return under, discs


def _lamps(body: Body, length: float, width: float) -> list[Face]:
    """Lamps and number plates, as details on the two ends."""
    low, high = (0.62, 0.8) if body.label == CAR else (0.85, 1.1)
    faces = []
    for end, lamp in ((-0.5, "rear-lamp"), (0.5, "head-lamp")):
        z = end * length
        patches = [("plate", -0.13 * width, 0.13 * width, low - 0.1, low + 0.02)]
        patches += [
            (lamp, a * width, b * width, low, high) for a, b in ((-0.4, -0.24), (0.24, 0.4))
        ]
        for kind, x0, x1, y0, y1 in patches:
            corners = [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]
            points = np.array(corners if end < 0 else corners[::-1])
            faces.append(
                Face(
                    label=body.label,
                    kind=f"{body.name}-{kind}",
                    points=points,
                    detail=True,
                    solid=True,
                )
            )
    return faces
