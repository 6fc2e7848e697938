"""Cityscapes label ids of the street scenes, as in `sceneloom/schemas/cityscapes.json`."""

from __future__ import annotations

UNLABELLED = 0
EGO_VEHICLE = 1
STATIC = 4
GROUND = 6
ROAD = 7
SIDEWALK = 8
PARKING = 9
BUILDING = 11
WALL = 12
FENCE = 13
POLE = 17
TRAFFIC_LIGHT = 19
TRAFFIC_SIGN = 20
VEGETATION = 21
TERRAIN = 22
SKY = 23
PERSON = 24
RIDER = 25
CAR = 26
TRUCK = 27
BUS = 28
MOTORCYCLE = 32
BICYCLE = 33
LICENSE_PLATE = 34
LANE_MARKING = 35
"""White lines and pedestrian crossings: of ``cityscapes-markings``, not of Cityscapes."""

WINDOW = 36
DOOR = 37
SHOP_WINDOW = 38
ROOF = 39
VEHICLE_GLASS = 40
WHEEL = 41
HEAD_LAMP = 42
REAR_LAMP = 43
HEAD = 44
UPPER_CLOTHES = 45
LOWER_CLOTHES = 46
TRUNK = 47
KERB = 48
"""These and lane markings are of ``cityscapes-details``: parts of houses, vehicles, people, trees
and the road, which Cityscapes does not separate.
"""

COUNTED = frozenset({PERSON, RIDER, CAR, TRUCK, BUS, MOTORCYCLE, BICYCLE})
"""Labels whose things have numbers of their own in the instance map."""
INSTANCE_DIVISOR = 1000
"""An instance's value in the instance map is ``label * INSTANCE_DIVISOR + n``."""
