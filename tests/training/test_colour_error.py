"""The judge without a network, on pictures whose error is known."""

from __future__ import annotations

import numpy as np
import pytest

from sceneloom_training.validation import colour_errors, mean_colour_error


def pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    label_map = np.zeros((20, 20), np.uint8)
    label_map[:, 10:] = 3
    photo = np.full((20, 20, 3), 100, np.uint8)
    picture = photo.copy()
    picture[:, 10:] = (130, 100, 70)
    return picture, photo, label_map


def test_error_of_each_class() -> None:
    picture, photo, label_map = pictures()
    assert colour_errors(picture, photo, label_map) == {0: 0.0, 3: pytest.approx(20.0)}
    assert mean_colour_error(picture, photo, label_map) == pytest.approx(10.0)


def test_only_the_mean_colour_counts() -> None:
    picture, photo, label_map = pictures()
    picture[:, :10] = 50
    picture[::2, :10] = 150
    assert colour_errors(picture, photo, label_map)[0] == pytest.approx(0.0)


def test_small_classes_and_pixels_without_channel_are_left_out() -> None:
    picture, photo, label_map = pictures()
    label_map[:7, :9] = 5  # 63 pixels
    label_map[10:, 10:] = 255
    assert set(colour_errors(picture, photo, label_map)) == {0, 3}
    assert mean_colour_error(picture, photo, np.full_like(label_map, 255)) == 0.0
