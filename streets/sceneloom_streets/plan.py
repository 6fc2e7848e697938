"""Plan of a street: camera, widths of the strips, densities of things. Lengths are in metres."""

from __future__ import annotations

import dataclasses

import numpy as np

from sceneloom_streets.buildings import District
from sceneloom_streets.camera import Camera
from sceneloom_streets.ids import PARKING, ROAD

LANE = 3.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One side of the street, from the road outward."""

    sign: float
    """-1 for the left side, 1 for the right."""
    edge: float
    """From the camera's line to the end of the driving lanes."""
    parking: float
    """Width of the parking strip; 0 is none."""
    parking_label: int
    """Label of the parking strip: parking, or road without markings."""
    slanted: bool
    """True if cars are parked across the strip rather than along it."""
    parked: float
    """Occupied share of the parking strip, 0..1."""
    verge: float
    """Width of a green strip between kerb and pavement; 0 is none."""
    pavement: float
    """Width of the pavement."""
    yard: float
    """Width of front gardens between pavement and building line; 0 is none."""
    park: bool
    """True if trees stand there instead of houses."""
    trees: float
    """Mean distance between street trees; infinite is none."""
    people: float
    """Mean number of people on the pavement."""

    @property
    def kerb(self) -> float:
        """From the camera's line to the kerb."""
        return self.edge + self.parking

    @property
    def property_line(self) -> float:
        """From the camera's line to the end of the pavement."""
        return self.kerb + self.verge + self.pavement

    @property
    def building_line(self) -> float:
        """From the camera's line to the facades."""
        return self.property_line + self.yard


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One street."""

    camera: Camera
    """The camera, and the street's bend."""
    left: Side
    """The side of the oncoming traffic."""
    right: Side
    """The near side: traffic keeps right."""
    oncoming: int
    """Number of oncoming lanes; 0 is a one-way street."""
    district: District
    """Range of sizes and forms of its houses."""
    length: float
    """Metres ahead of the skyline, the end of the street."""
    crossing: tuple[float, float] | None
    """Metres ahead of the start and the end of a side street."""
    zebra: float | None
    """Metres ahead of a pedestrian crossing."""
    traffic: float
    """Mean distance between moving vehicles in a lane."""

    @property
    def sides(self) -> tuple[Side, Side]:
        """Left, then right."""
        return self.left, self.right

    def keeps_free(self, s: float, margin: float = 3.0) -> bool:
        """True within a pedestrian crossing, or `margin` metres around a side street."""
        if self.zebra is not None and self.zebra - 1.5 < s < self.zebra + 4.5:
            return True
        crossing = self.crossing
        return crossing is not None and crossing[0] - margin < s < crossing[1] + margin


def draw_plan(rng: np.random.Generator) -> Plan:
    """Draw a street: narrow or wide, dense or green, straight or bent."""
    green = float(rng.random())
    oncoming = int(rng.choice([0, 1, 2], p=[0.18, 0.62, 0.2]))
    left_edge = LANE * (0.5 + oncoming) + float(rng.uniform(0, 0.5))
    right_edge = LANE * (1.5 if oncoming == 2 else 0.5) + float(rng.uniform(0.1, 0.6))
    park = int(rng.choice([-1, 1])) if rng.random() < 0.22 else 0
    crossing = None
    if rng.random() < 0.42:
        start = float(rng.uniform(14, 45))
        crossing = (start, start + float(rng.uniform(8, 15)))
    zebra = crossing[0] - 4.5 if crossing else None
    if zebra is None and rng.random() < 0.25:
        zebra = float(rng.uniform(10, 35))
    bend = float(rng.normal(0, 1 / 650)) if rng.random() < 0.55 else 0.0
    return Plan(
        camera=Camera(
            focal=float(rng.uniform(1.65, 2.2)),
            height=float(rng.uniform(1.25, 1.5)),
            horizon=float(rng.uniform(0.38, 0.46)),
            vanishing_x=float(np.clip(rng.normal(0, 0.09), -0.25, 0.25)),
            bend=float(np.clip(bend, -1 / 350, 1 / 350)),
        ),
        left=_draw_side(rng, -1, left_edge, green, park == -1),
        right=_draw_side(rng, 1, right_edge, green, park == 1),
        oncoming=oncoming,
        district=District(
            storeys=float(rng.uniform(2.6, 6.6)) - 1.6 * green,
            spread=float(rng.uniform(0.3, 1.3)),
            frontage=(float(rng.uniform(6, 10)), float(rng.uniform(12, 28))),
            setback=float(rng.choice([0.0, 0.8, 2.5])),
            gaps=0.02 + 0.4 * green * float(rng.random()),
            pitched=float(rng.random()),
        ),
        length=float(rng.uniform(90, 260)),
        crossing=crossing,
        zebra=zebra,
        traffic=float(rng.uniform(14, 60)),
    )


def _draw_side(
    rng: np.random.Generator, sign: float, edge: float, green: float, park: bool
) -> Side:
    slanted = rng.random() < 0.12
    parking = float(rng.uniform(2.0, 2.5)) if rng.random() < 0.78 else 0.0
    if slanted and parking:
        parking = float(rng.uniform(4.8, 5.4))
    return Side(
        sign=sign,
        edge=edge,
        parking=parking,
        parking_label=PARKING if slanted or rng.random() < 0.25 else ROAD,
        slanted=slanted,
        parked=float(rng.uniform(0.2, 1.0)),
        verge=float(rng.uniform(1.0, 3.0)) if rng.random() < 0.15 + 0.3 * green else 0.0,
        pavement=float(rng.uniform(1.6, 4.6)),
        yard=float(rng.uniform(1.5, 5.0)) if rng.random() < 0.55 * green else 0.0,
        park=park,
        trees=float(rng.uniform(7, 26)) if rng.random() < 0.35 + 0.5 * green else np.inf,
        people=float(rng.exponential(3.5)),
    )
