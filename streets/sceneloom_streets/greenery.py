"""Trees, hedges and far masses of leaves: irregular outlines from a few random waves."""

from __future__ import annotations

import itertools

import numpy as np

from sceneloom_streets.ids import VEGETATION
from sceneloom_streets.solids import Face, Points, Thing, bar, upright


def tree(rng: np.random.Generator, *, t: float, s: float, tall: float) -> Thing:
    """A tree `tall` metres high: a trunk and a crown of several overlapping lumps."""
    trunk = tall * float(rng.uniform(0.22, 0.38))
    thick = max(0.14, tall * float(rng.uniform(0.02, 0.04)))
    middle = (trunk + tall) / 2
    reach = (tall - trunk) * float(rng.uniform(0.26, 0.62))
    lean = float(rng.normal(0, 0.02)) * tall
    parts = [("trunk", np.array(bar((0, 0), (lean, middle), thick, thick * 0.6)))]
    half = (tall - trunk) / 2
    parts.append(("crown", blob(rng, (lean, middle), reach * 0.85, half)))
    for _ in range(int(rng.integers(2, 6))):
        centre = (
            lean + float(rng.uniform(-0.6, 0.6)) * reach,
            middle + float(rng.uniform(-0.55, 0.5)) * half,
        )
        size = float(rng.uniform(0.4, 0.7))
        parts.append(("crown", blob(rng, centre, reach * size, half * size)))
    faces = tuple(upright(VEGETATION, kind, outline, t=t, s=s) for kind, outline in parts)
    return Thing(order=s, faces=faces)


def bush(rng: np.random.Generator, *, t: float, s: float, tall: float) -> Thing:
    """A bush: lumps that stand on the ground."""
    faces = []
    for _ in range(int(rng.integers(1, 4))):
        u = float(rng.uniform(-0.6, 0.6)) * tall
        size = tall * float(rng.uniform(0.5, 1.0))
        outline = blob(rng, (u, size * 0.45), size * 0.7, size * 0.55)
        outline[:, 1] = np.maximum(outline[:, 1], 0)
        faces.append(upright(VEGETATION, "bush", outline, t=t, s=s))
    return Thing(order=s, faces=tuple(faces))


def hedge(
    rng: np.random.Generator,
    *,
    t: float,
    s: tuple[float, float],
    tall: float,
    ragged: float,
    label: int = VEGETATION,
    kind: str = "hedge",
) -> Thing:
    """A wall of leaves along the street at `t`; its top varies by `ragged` (0..1)."""
    # Even steps in 1/s are even steps in the image.
    steps = max(8, min(160, int(260 * (1 / max(s[0], 1.5) - 1 / s[1])) + 8))
    at = 1 / np.linspace(1 / s[0], 1 / s[1], steps)
    cuts = np.append(np.arange(0, steps - 1, 6), steps - 1)
    # Smooth noise within about -1..1: waves of 9 metres and their octaves.
    waves = np.zeros_like(at)
    for octave in range(4):
        phase = float(rng.uniform(0, 2 * np.pi))
        waves += 0.6**octave * np.sin(2 * np.pi * 1.9**octave * (at / 9.0) + phase)
    waves /= 2
    top = tall * (1 + ragged * (0.6 * waves + 0.4 * rng.uniform(-1, 1, steps)))
    low = np.column_stack([np.full(steps, t), np.zeros(steps), at])
    high = np.column_stack([np.full(steps, t), np.maximum(top, 0.2), at])
    faces = []
    for a, b in itertools.pairwise(cuts.tolist()):
        points = np.concatenate([low[a : b + 1], high[a : b + 1][::-1]])
        faces.append(Face(label=label, kind=kind, points=points, order=float(at[b])))
    return Thing(order=s[1], faces=tuple(faces))


def blob(
    rng: np.random.Generator, centre: tuple[float, float], reach: float, half: float
) -> Points:
    """An irregular closed outline, float64 [N, 2], about `reach` wide and `half` high each way."""
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    waves = np.arange(2, 30)
    sizes = rng.normal(0, 0.16, len(waves)) / waves**0.72
    phases = rng.uniform(0, 2 * np.pi, len(waves))
    radius = 1 + (sizes[:, None] * np.cos(waves[:, None] * angles + phases[:, None])).sum(0)
    radius = np.clip(radius, 0.55, 1.35)
    return np.column_stack(
        [centre[0] + reach * radius * np.cos(angles), centre[1] + half * radius * np.sin(angles)]
    )
