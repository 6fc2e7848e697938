"""The street of a seed.

A seed draws a plan, the plan is furnished in metres, the camera projects it to shapes, and hardly
visible things are dropped. A closed-in street (no sky, hardly any road) is drawn again.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from sceneloom.errors import InputError
from sceneloom_streets import ids
from sceneloom_streets.camera import HALF_FRAME, project
from sceneloom_streets.ground import lay_ground
from sceneloom_streets.painting import StreetLabels, check_size, fill, paint_labels
from sceneloom_streets.photo import paint_photo
from sceneloom_streets.plan import draw_plan
from sceneloom_streets.roadside import add_furniture, add_houses
from sceneloom_streets.scene import Scene, Shape
from sceneloom_streets.traffic import add_people, fill_lanes, park_vehicles

_DRAFT_SIZE = (256, 512)
"""Height and width at which a scene is checked and things of too few pixels are left out."""
_MIN_PIXELS = 12
_MAX_ATTEMPTS = 100


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Street:
    """A drawn street."""

    label_map: npt.NDArray[np.uint8]
    """Label ids of Cityscapes or of the asked schema, uint8 [H, W]."""
    instance_map: npt.NDArray[np.int32]
    """Instances, int32 [H, W]: ``label * 1000 + n`` for counted things, the label elsewhere."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pair(Street):
    """A drawn street and its photograph."""

    photo: npt.NDArray[np.uint8]
    """Photograph, uint8 [H, W, 3] RGB."""


def draw_street(
    seed: int, height: int = 1024, width: int = 2048, *, labels: StreetLabels = "cityscapes"
) -> Street:
    """Draw the street of a seed, from 0: equal seeds give the same street at any size.

    Args:
        seed: whole number from 0.
        height: pixels, 16 to 16384.
        width: pixels, 16 to 16384 and at most four times the height, composed for twice.
        labels: schema of the maps: ``cityscapes-markings`` labels lane lines and zebra crossings
            as lane marking, id 35; ``cityscapes-details`` labels windows, wheels, clothes and other
            parts too, and numbers houses.

    Raises InputError if the seed or the size is out of range.
    """
    check_size(height, width)
    scene = build_street(seed)
    label_map, instance_map = paint_labels(scene, height, width, labels=labels)
    return Street(label_map=label_map, instance_map=instance_map)


def draw_pair(
    seed: int, height: int = 1024, width: int = 2048, *, labels: StreetLabels = "cityscapes"
) -> Pair:
    """Draw the street of a seed and its photograph; see `draw_street`."""
    check_size(height, width)
    scene = build_street(seed)
    label_map, instance_map = paint_labels(scene, height, width, labels=labels)
    photo = paint_photo(scene, height, width)
    return Pair(label_map=label_map, instance_map=instance_map, photo=photo)


def build_street(seed: int) -> Scene:
    """Build the scene of a seed, for painting at any size.

    A frame twice as wide as high has road, sky, a car, and houses or trees. Raises InputError
    unless the seed is a whole number from 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed is {seed!r}; it is a whole number from 0")
    for attempt in range(_MAX_ATTEMPTS):
        scene = _attempt(int(seed), attempt)
        draft = paint_labels(scene, *_DRAFT_SIZE)[0]
        share = np.bincount(draft.ravel(), minlength=256) / draft.size
        if (
            0.18 <= share[ids.ROAD] <= 0.5
            and share[ids.SKY] >= 0.01
            and (draft[: draft.shape[0] // 8] == ids.SKY).mean() >= 0.02
            and share[ids.CAR] >= 0.004
            and share[ids.BUILDING] + share[ids.VEGETATION] >= 0.1
        ):
            return scene
    raise AssertionError(f"no street in {_MAX_ATTEMPTS} attempts with seed {seed}")


def _attempt(seed: int, attempt: int) -> Scene:
    """A scene that may turn out closed in."""
    # A generator for each part: what one part draws does not move the others about.
    parts = [np.random.default_rng(s) for s in np.random.SeedSequence((seed, attempt)).spawn(8)]
    plan = draw_plan(parts[0])
    things = lay_ground(parts[1], plan)
    things += add_houses(parts[2], plan)
    things += add_furniture(parts[3], plan)
    things += park_vehicles(parts[4], plan)
    things += fill_lanes(parts[5], plan)
    things += add_people(parts[6], plan)
    low = plan.camera.horizon + 0.001
    corners = [(-HALF_FRAME, -0.01), (HALF_FRAME, -0.01), (HALF_FRAME, low), (-HALF_FRAME, low)]
    outline = np.array(corners, np.float32)
    sky = Shape(label=ids.SKY, kind="sky", outline=outline, distance=np.inf, thing=len(things))
    shapes = [sky, *project(plan.camera, things)]
    shapes += _bonnet(parts[7], len(things) + 1)
    # Hardly visible counted things are left out.
    canvas = np.zeros(_DRAFT_SIZE, np.int32)
    for shape in shapes:
        if not shape.detail:
            fill(canvas, shape, shape.thing)
    pixels = np.bincount(canvas.ravel(), minlength=max(s.thing for s in shapes) + 1)
    shapes = [s for s in shapes if s.instance is None or pixels[s.thing] >= _MIN_PIXELS]
    # The others are numbered from 0 for each label, back to front.
    numbers: dict[int, dict[int, int]] = {}
    for i, shape in enumerate(shapes):
        if shape.instance is not None:
            of_label = numbers.setdefault(shape.label, {})
            number = of_label.setdefault(shape.thing, len(of_label))
            assert number < ids.INSTANCE_DIVISOR, number
            shapes[i] = dataclasses.replace(shape, instance=number)
    return Scene(
        seed=seed,
        horizon=plan.camera.horizon,
        vanishing_x=plan.camera.vanishing_x,
        focal=plan.camera.focal,
        camera_height=plan.camera.height,
        bend=plan.camera.bend,
        shapes=tuple(shapes),
    )


def _bonnet(rng: np.random.Generator, thing: int) -> list[Shape]:
    """The camera's own car at the bottom of most frames."""
    if rng.random() < 0.15:
        return []
    rise, drop = float(rng.uniform(0.04, 0.12)), float(rng.uniform(0.015, 0.07))
    lean = float(rng.uniform(-0.012, 0.012))
    x = np.linspace(-HALF_FRAME, HALF_FRAME, 65)
    edge = 1 - rise + drop * np.abs(x) ** 2.2 + lean * x
    top = np.column_stack([x, np.minimum(edge, 1.02)])
    corners = np.concatenate([top, [(HALF_FRAME, 1.03), (-HALF_FRAME, 1.03)]])
    return [
        Shape(
            label=ids.EGO_VEHICLE,
            kind="bonnet",
            outline=corners.astype(np.float32),
            distance=1.5,
            thing=thing,
        )
    ]
