"""Materials: a palette and a texture for each kind of shape.

Palettes are display colours (0..255). A thing draws its place within a palette once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
Floats = npt.NDArray[np.float32]

VEHICLES = ("hatchback", "saloon", "estate", "crossover", "van", "bus", "truck")
"""First parts of the kinds of vehicles; the second part (body, glass) is the material."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """Colour, texture and light of a kind of shape."""

    palette: tuple[Colour, ...]
    """Display colours; a thing has one of them, a little changed."""
    vary: float = 0.12
    """Deviation of brightness and tint from the palette, as a share."""
    uneven: float = 0.0
    """Difference in brightness between the patches of a thing, as a share."""
    by: str = "thing"
    """Unit of one colour: "scene", "thing" or "shape"."""
    draw: int = 0
    """Index (0..7) of the thing's random number that selects from the palette."""
    texture: str = "plain"
    """Name of its tile in the atlas."""
    tile: float = 2.0
    """Metres that the tile covers."""
    grain: float = 0.0
    """Strength of the texture."""
    fine: float = 0.2
    """Fading of the texture where pixels are coarser than its texels; 0 is none."""
    dirt: float = 0.06
    """Strength of wide, cloudy differences."""
    rounded: float = 0.0
    """0 for flat surfaces to 1 for bodies like trunks, lit from more sides than one."""
    top: float = 0.0
    """Brightness of the upper edge above that of the lower one, as a share."""
    gloss: float = 0.0
    """Share of the sky that the surface mirrors."""
    glow: float = 0.0
    """Emitted light as a factor of its colour; negative: its magnitude times `Light.lamps`."""


_GREYS: tuple[Colour, ...] = ((228, 228, 226), (168, 170, 172), (96, 99, 103), (38, 39, 41))
_PAINTS: tuple[Colour, ...] = (
    *((60, 62, 66), (198, 200, 201), (30, 31, 33), (128, 131, 134), (46, 48, 52)),
    *((226, 227, 225), (186, 189, 191), (150, 153, 156), (104, 108, 112), (70, 73, 77)),
    *((36, 37, 39), (24, 25, 28), (30, 44, 78), (38, 66, 112), (126, 22, 24), (92, 18, 22)),
    *((40, 66, 52), (196, 180, 150), (122, 108, 92), (126, 72, 40), (214, 208, 194)),
)
_CLOTHES: tuple[Colour, ...] = (
    *((28, 30, 36), (38, 42, 58), (60, 60, 64), (100, 100, 104), (150, 146, 138), (205, 203, 198)),
    *((44, 66, 110), (132, 30, 34), (52, 84, 60), (176, 140, 84), (86, 64, 50), (190, 92, 104)),
    *((214, 180, 70), (34, 34, 36), (70, 112, 148)),
)
_TROUSERS: tuple[Colour, ...] = (
    *((32, 34, 42), (44, 54, 80), (66, 84, 118), (88, 86, 82), (130, 118, 96), (26, 26, 28)),
)
_SKIN: tuple[Colour, ...] = ((222, 178, 150), (200, 152, 122), (160, 112, 82), (104, 70, 50))
_FACADES: tuple[Colour, ...] = (
    *((214, 204, 184), (196, 178, 148), (176, 158, 132), (206, 186, 128), (222, 220, 212)),
    *((150, 146, 140), (188, 146, 116), (164, 108, 84), (134, 76, 60), (118, 104, 92)),
    *((172, 180, 176), (150, 164, 172), (204, 168, 150), (108, 108, 110), (184, 190, 160)),
)
_ROOFS: tuple[Colour, ...] = (
    (128, 66, 48),
    (98, 58, 48),
    (72, 68, 68),
    (86, 88, 92),
    (110, 84, 70),
)
_GREENS: tuple[Colour, ...] = (
    *((66, 88, 36), (52, 76, 34), (82, 98, 42), (44, 64, 36), (92, 100, 50), (98, 102, 42)),
)
_GRASS: tuple[Colour, ...] = ((84, 104, 46), (98, 108, 56), (70, 92, 42), (124, 116, 72))
_PAVING: tuple[Colour, ...] = ((142, 138, 132), (124, 120, 116), (152, 140, 128), (112, 108, 104))
_ROAD: tuple[Colour, ...] = ((84, 84, 85), (98, 97, 95), (72, 73, 75), (112, 110, 107))
_METAL: tuple[Colour, ...] = ((122, 126, 128), (96, 100, 100), (74, 80, 78), (146, 148, 148))

_BRICKS = Material(palette=_FACADES, texture="brick", tile=2.0, grain=0.2, dirt=0.14, top=0.1)
_HOUSE = dataclasses.replace(_BRICKS, texture="plaster", tile=5.0, grain=0.16)
_LEAVES = Material(
    palette=_GREENS,
    vary=0.22,
    uneven=0.3,
    texture="leaves",
    tile=4.5,
    grain=0.72,
    fine=0.006,
    dirt=0.4,
    rounded=0.8,
    top=0.75,
)
_PAINT = Material(palette=_PAINTS, vary=0.1, dirt=0.08, gloss=0.1, rounded=0.45)
_SHOD = Material(palette=((18, 18, 19), (24, 24, 25)), rounded=0.6, dirt=0.1)
_CLOTH = Material(palette=_CLOTHES, texture="cloth", tile=0.9, grain=0.3, rounded=0.9)
_LEGS = dataclasses.replace(_CLOTH, palette=_TROUSERS, draw=1)
_FIGURE_HEAD = Material(palette=_SKIN, rounded=0.9, draw=2, top=0.2)
_STEEL = Material(palette=_METAL, vary=0.15, dirt=0.1, rounded=1.0)
_BOX = Material(palette=_GREYS, vary=0.2, dirt=0.2, rounded=0.5, texture="ribs", grain=0.15)

MATERIALS: dict[str, Material] = {
    "sky": Material(palette=((200, 210, 220),), by="scene"),
    # Ground
    "road": Material(
        palette=_ROAD, by="scene", draw=0, texture="asphalt", tile=1.6, grain=0.3, dirt=0.16
    ),
    "parking": Material(
        palette=_ROAD, by="scene", draw=1, texture="cobbles", tile=2.4, grain=0.28, dirt=0.2
    ),
    "pavement": Material(
        palette=_PAVING, by="scene", draw=2, texture="slabs", tile=1.8, grain=0.22, dirt=0.16
    ),
    "forecourt": Material(
        palette=_PAVING, by="scene", draw=3, texture="cobbles", tile=2.0, grain=0.25, dirt=0.2
    ),
    "kerb": Material(palette=((160, 158, 152), (136, 134, 130)), by="scene", dirt=0.2),
    "kerbstone": Material(palette=((168, 166, 160), (140, 138, 134)), by="scene", dirt=0.2),
    "verge": Material(
        palette=_GRASS, by="scene", draw=4, texture="grass", tile=1.8, grain=0.45, dirt=0.35
    ),
    "lane-line": Material(palette=((214, 214, 208),), texture="asphalt", grain=0.16, dirt=0.3),
    "zebra": Material(palette=((212, 212, 206),), texture="asphalt", grain=0.16, dirt=0.3),
    "patch": Material(
        palette=_ROAD, by="scene", uneven=0.4, texture="asphalt", tile=1.6, grain=0.3, dirt=0.16
    ),
    "drain": Material(palette=((66, 65, 64),), texture="slats", tile=1.2, grain=0.6),
    # Houses
    "facade": _HOUSE,
    "facade-brick": _BRICKS,
    "end-wall": dataclasses.replace(_HOUSE, vary=0.05),
    "far-house": dataclasses.replace(_HOUSE, grain=0.12),
    "roof": Material(
        palette=_ROOFS, draw=1, texture="tiles", tile=5.0, grain=0.3, dirt=0.2, rounded=0.3
    ),
    "roof-box": Material(palette=(*_ROOFS, *_FACADES), by="shape", dirt=0.15, rounded=0.4),
    "plinth": Material(palette=((104, 98, 92), (70, 68, 68), (150, 142, 132)), draw=2, dirt=0.2),
    "cornice": Material(palette=((222, 218, 208), (150, 142, 132), (198, 184, 160)), draw=3),
    "window": Material(
        palette=((232, 230, 224), (236, 236, 232), (120, 88, 60), (74, 66, 60)), draw=4
    ),
    "pane": Material(
        palette=((26, 30, 34), (52, 58, 64), (18, 20, 22), (104, 108, 108), (40, 46, 54)),
        by="shape",
        vary=0.3,
        texture="smooth",
        tile=6.0,
        grain=0.38,
        fine=0.0,
        dirt=0.2,
        gloss=0.2,
        top=-0.5,
    ),
    "lit-pane": Material(palette=((255, 206, 128), (250, 226, 180)), by="shape", glow=0.9),
    "shop-window": Material(palette=((60, 58, 56), (128, 124, 118), (36, 36, 38)), draw=5),
    "shop-pane": Material(
        palette=((40, 40, 42), (84, 76, 66), (120, 104, 84), (60, 66, 74)),
        by="shape",
        texture="smooth",
        tile=1.4,
        grain=0.9,
        dirt=0.5,
        gloss=0.1,
    ),
    "shop-sign": Material(
        palette=((186, 30, 34), (30, 62, 130), (232, 228, 216), (40, 92, 58), (226, 186, 40)),
        by="shape",
        texture="cloth",
        grain=0.2,
    ),
    "door": Material(
        palette=((92, 58, 36), (52, 56, 58), (40, 70, 56), (110, 36, 32), (168, 164, 158)), draw=6
    ),
    # Green
    "crown": _LEAVES,
    "hedge": dataclasses.replace(_LEAVES, tile=2.6, grain=0.65, dirt=0.3, top=0.6),
    "far-trees": dataclasses.replace(_LEAVES, tile=14.0, vary=0.3, top=0.6),
    "garden-bed": dataclasses.replace(_LEAVES, tile=2.6, rounded=0.2, top=0),
    "trunk": Material(
        palette=((84, 72, 60), (70, 64, 56), (110, 102, 90)),
        texture="cloth",
        tile=0.8,
        grain=0.5,
        rounded=1.0,
        top=-0.3,
    ),
    # Vehicles
    "body": dataclasses.replace(_PAINT, top=0.75),
    "deck": dataclasses.replace(_PAINT, gloss=0.16),
    "car-roof": dataclasses.replace(_PAINT, gloss=0.14),
    "cargo": Material(
        palette=((226, 226, 222), (190, 60, 48), (44, 78, 130), (216, 190, 60), (120, 124, 126)),
        draw=1,
        texture="ribs",
        tile=3.0,
        grain=0.1,
        dirt=0.15,
    ),
    "glass": Material(
        palette=((18, 21, 23), (28, 33, 36), (12, 14, 15)),
        gloss=0.075,
        texture="smooth",
        tile=3.0,
        grain=0.22,
        fine=0.0,
        top=0.4,
        draw=2,
    ),
    "wheel": _SHOD,
    "tyre": _SHOD,
    "rim": Material(palette=((150, 152, 154), (96, 98, 100), (58, 59, 61)), draw=3, vary=0.2),
    "trim": Material(palette=((24, 24, 25), (40, 41, 43)), dirt=0.1, top=0.3),
    "reflector": Material(palette=((92, 96, 100), (60, 62, 66)), dirt=0.1),
    "indicator": Material(palette=((206, 110, 40), (196, 60, 40), (210, 200, 196)), draw=6),
    "shut-line": Material(palette=((12, 12, 13),)),
    "head-lamp": Material(palette=((214, 218, 222), (170, 176, 182)), gloss=0.2, glow=-1.6),
    "rear-lamp": Material(palette=((150, 20, 18), (118, 14, 16)), gloss=0.05, glow=-1.2),
    "plate": Material(
        palette=((226, 226, 218), (214, 206, 160)), vary=0.04, texture="cloth", tile=0.12, grain=0.3
    ),
    # People and what they ride
    "person-torso": _CLOTH,
    "person-arm": _CLOTH,
    "person-legs": _LEGS,
    "person-shoes": Material(palette=((24, 22, 22), (190, 188, 184), (80, 54, 38)), draw=3),
    "person-head": _FIGURE_HEAD,
    "person-bag": Material(palette=_CLOTHES, draw=4, rounded=0.6),
    "hair": Material(palette=((28, 22, 18), (62, 42, 28), (110, 80, 48), (150, 146, 140)), draw=5),
    "helmet": Material(
        palette=((40, 40, 42), (200, 200, 198), (168, 36, 34), (52, 92, 140)), draw=5
    ),
    "bicycle-wheel": Material(palette=((44, 44, 46), (60, 60, 62)), rounded=0.5),
    "bicycle-frame": Material(palette=(*_GREYS, *_PAINTS[7:12]), rounded=0.6),
    "motorcycle-body": dataclasses.replace(_PAINT, palette=(*_GREYS, *_PAINTS[7:12])),
    # Furniture
    "pole": _STEEL,
    "bollard": Material(
        palette=((70, 72, 74), (40, 42, 44), (150, 148, 144)), by="scene", rounded=1
    ),
    "lamp-head": Material(palette=((150, 152, 152), (110, 112, 112)), glow=-2.5),
    "traffic-light": Material(palette=((24, 26, 26), (32, 44, 38)), vary=0.1),
    "lamp-off": Material(palette=((52, 18, 16), (54, 44, 14), (14, 46, 28)), by="shape"),
    "lamp-red": Material(palette=((255, 60, 44),), vary=0.03, glow=1.3),
    "lamp-green": Material(palette=((70, 255, 170),), vary=0.03, glow=1.1),
    "lamp-amber": Material(palette=((255, 190, 50),), vary=0.03, glow=1.2),
    "traffic-sign": Material(palette=((190, 26, 32), (26, 74, 150)), vary=0.08),
    "sign-red": Material(palette=((188, 24, 30),), vary=0.1),
    "sign-blue": Material(palette=((24, 74, 152),), vary=0.1),
    "sign-white": Material(palette=((226, 226, 222),), vary=0.05),
    "sign-yellow": Material(palette=((232, 186, 30),), vary=0.06),
    "sign-black": Material(palette=((30, 30, 32),)),
    "sign-back": Material(palette=((136, 138, 140), (112, 114, 116)), dirt=0.2),
    "direction-board": Material(
        palette=((26, 72, 148), (222, 178, 34), (22, 96, 62), (224, 224, 220))
    ),
    "bin": dataclasses.replace(
        _BOX, palette=((52, 60, 52), (70, 72, 74), (40, 60, 92), (178, 84, 32), (44, 44, 46))
    ),
    "cabinet": dataclasses.replace(_BOX, palette=((150, 152, 146), (122, 128, 122), (92, 96, 92))),
    "column": dataclasses.replace(_BOX, palette=((150, 140, 120), (96, 112, 100)), rounded=1.0),
    "poster": Material(
        palette=(*_CLOTHES, (236, 232, 220)), by="shape", vary=0.3, texture="smooth", grain=0.6
    ),
    "bench": Material(palette=((112, 80, 52), (84, 84, 82)), texture="slats", grain=0.4),
    "litter": Material(
        palette=((60, 58, 58), (150, 140, 120), (190, 188, 180)), dirt=0.4, rounded=0.6
    ),
    "fence": Material(
        palette=((112, 90, 64), (86, 88, 88), (140, 136, 126), (60, 74, 62)),
        texture="slats",
        tile=2.4,
        grain=0.55,
        dirt=0.15,
    ),
    "fence-post": Material(palette=((84, 70, 54), (70, 72, 72)), rounded=0.6),
    "wall": Material(
        palette=((158, 148, 134), (136, 84, 66), (120, 118, 114), (190, 180, 162)),
        texture="brick",
        tile=2.4,
        grain=0.25,
        dirt=0.3,
    ),
    "coping": Material(palette=((150, 146, 138), (110, 106, 100)), dirt=0.2),
    "bonnet": Material(palette=_PAINTS, dirt=0.03, gloss=0.05, top=0.7),
}
_SAME = {
    "gable": "end-wall",
    "far-roof": "roof",
    "bush": "hedge",
    "lawn": "verge",
    "rider-torso": "person-torso",
    "rider-arm": "person-arm",
    "rider-legs": "person-legs",
    "rider-shoes": "person-shoes",
    "rider-head": "person-head",
    "bicycle-saddle": "bicycle-wheel",
    "motorcycle-wheel": "wheel",
}
_OF_LABEL = {
    ("beyond", 22): "verge",
    ("beyond", 8): "forecourt",
    ("beyond", 6): "forecourt",
    ("garden", 22): "verge",
    ("garden", 21): "garden-bed",
    ("parking", 7): "road",
}


def material_name(kind: str, label: int) -> str:
    """Key into `MATERIALS` for a shape's kind and label; KeyError for an unknown kind."""
    name = _OF_LABEL.get((kind, label)) or _SAME.get(kind, kind)
    first, _, part = name.partition("-")
    if first in VEHICLES:
        name = "car-roof" if part == "roof" else part
    if name not in MATERIALS:
        raise KeyError(f"no material for {kind!r} of label {label}")
    return name


def reflectance(colours: npt.NDArray[Any]) -> Floats:
    """Display colours 0..255 to linear reflectance 0..1, by the usual gamma of 2.2."""
    return np.asarray((np.asarray(colours) / 255.0) ** 2.2, np.float32)
