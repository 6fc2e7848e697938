"""Learning rate and stages by the step alone."""

from __future__ import annotations

import itertools

import pytest

from sceneloom_training.networks import GeneratorArchitecture, build_generator
from sceneloom_training.schedule import Schedule, enclosed_parameters
from sceneloom_training.settings import ScheduleSettings
from sceneloom_training.train_step import average_decay


def test_flat_then_a_straight_line_to_zero() -> None:
    schedule = Schedule.of(ScheduleSettings(epochs=2, decay_epochs=3), steps_per_epoch=10)
    assert schedule.last == 50
    factors = [schedule.factor(step) for step in range(51)]
    assert factors[:21] == [1.0] * 21
    assert factors[35] == pytest.approx(0.5)
    falls = [a - b for a, b in itertools.pairwise(factors[20:])]
    assert falls == pytest.approx([1 / 30] * 30)
    assert factors[50] == 0


def test_the_average_begins_with_what_is_learnt() -> None:
    assert average_decay(0.999, 0) == pytest.approx(0.1)
    assert average_decay(0.999, 90) == pytest.approx(0.91)
    assert average_decay(0.999, 10**5) == 0.999
    assert average_decay(0.5, 90) == 0.5


def test_no_decay_and_a_limit() -> None:
    schedule = Schedule.of(ScheduleSettings(epochs=2, decay_epochs=0, max_steps=7), 10)
    assert schedule.last == 7
    assert {schedule.factor(step) for step in range(7)} == {1.0}
    limited = Schedule.of(ScheduleSettings(epochs=1, decay_epochs=1, max_steps=15), 10)
    assert limited.factor(15) == pytest.approx(0.5)  # the limit does not bend the line


def test_enhancer_stage_comes_first_and_ends() -> None:
    settings = ScheduleSettings(epochs=3, decay_epochs=0, enhancer_only_epochs=2)
    schedule = Schedule.of(settings, 5)
    assert [schedule.is_enhancer_only(step) for step in (0, 9, 10, 14)] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("enhancers", [1, 2])
def test_outermost_enhancer_and_head_are_what_is_not_enclosed(enhancers: int) -> None:
    architecture = GeneratorArchitecture(
        input_channels=3, ngf=2, global_downsamplings=1, global_blocks=1, enhancers=enhancers
    )
    generator = build_generator(architecture)
    enclosed = {id(p) for p in enclosed_parameters(generator)}
    free = {n for n, p in generator.named_parameters() if id(p) not in enclosed}
    assert free
    assert all(n.startswith((f"enhancers.{enhancers - 1}.", "head.")) for n in free)
