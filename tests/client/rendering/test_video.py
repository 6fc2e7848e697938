"""Videos: every frame there, in order, of the right colours; refused or whole."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sceneloom.errors import InputError
from sceneloom.rendering.video import write_video


def plain(*colour: int, height: int = 32, width: int = 48) -> Any:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))


COLOURS = [(200, 30, 60), (20, 180, 40), (30, 60, 220), (128, 128, 128), (255, 255, 255)]


def frames_of(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47)])
def test_frames_come_back(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "sub" / "a.mp4"
    write_video(path, (plain(*c, height=height, width=width) for c in COLOURS), fps=25)
    frames = frames_of(path)
    assert len(frames) == len(COLOURS)
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert frame.shape == (height + height % 2, width + width % 2, 3)
        assert np.abs(frame.astype(int) - colour).max() <= 4
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


def test_odd_sides_repeat_their_last_pixels(tmp_path: Path) -> None:
    image = plain(0, 0, 0, height=31, width=33).copy()
    image[:, 16:] = 255
    write_video(tmp_path / "a.mp4", [image], fps=1)
    [frame] = frames_of(tmp_path / "a.mp4")
    assert frame.shape == (32, 34, 3)
    assert frame[:, 33].min() > 240
    assert frame[31, :14].max() < 15


def test_what_players_read(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [plain(*c) for c in COLOURS], fps=30000 / 1001)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(30000, 1001)
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.colorspace == 1  # BT.709


def test_equal_frames_give_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", [plain(*c) for c in COLOURS], fps=25)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    ("name", "pictures", "fps", "reason"),
    [
        ("a.mp4", [], 25, r"a\.mp4: no pictures for a video"),
        ("a.avi", [plain(1, 1, 1)], 25, r"a\.avi: a video is written as \.mp4"),
        ("a.mp4", [plain(1, 1, 1)], 0, "fps is 0; it is above 0"),
        ("a.mp4", [plain(1, 1, 1)], float("nan"), "fps is nan"),
        (
            "a.mp4",
            [plain(1, 1, 1), plain(1, 1, 1), plain(1, 1, 1, height=16)],
            25,
            "picture 2 is 48x16, the first one 48x32; a video has one size",
        ),
        ("a.mp4", [plain(1, 1, 1)[..., 0]], 25, r"picture 0 is uint8 \[32, 48\], not uint8"),
        ("a.mp4", [plain(1, 1, 1, width=40000)], 25, "no video of 40000x32 can be written"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, name: str, pictures: list[Any], fps: float, reason: str
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"older")
    with pytest.raises(InputError, match=reason):
        write_video(tmp_path / name, iter(pictures), fps)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"older"


def test_a_full_disk(tmp_path: Path, small_files: Any) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(20)]
    with small_files(20_000), pytest.raises(OSError, match=r"too large: '.*a\.mp4'"):
        write_video(tmp_path / "a.mp4", noise, 25)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(OSError, match=r"'.*file/a\.mp4'"):
        write_video(tmp_path / "file" / "a.mp4", [plain(1, 1, 1)], 25)
    assert (tmp_path / "file").read_bytes() == b"mine"
