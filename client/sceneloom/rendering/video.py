"""A video from ordered frames: H.264 in an .mp4 file.

    write_video(Path("street.mp4"), (decode_picture(data) for data in frames), fps=25)

Colours are those of HD television (BT.709, limited range), at half the resolution (4:2:0): every
player shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sceneloom.errors import InputError, require
from sceneloom.files import new_part, publish, remove_part
from sceneloom.maps import Image

# The first is in the wheels of PyAV; the others are for builds without it.
_ENCODERS = ("libx264", "libopenh264", "mpeg4")
_QUALITY = {"crf": "18", "preset": "medium"}  # of libx264: without visible loss
_MAX_FPS = 1000


def write_video(path: Path, pictures: Iterable[Image], fps: float) -> None:
    """Write frames as a video, in one step; it replaces an older file.

    An odd picture repeats its last column or row, for the codec.

    Args:
        path: ends in .mp4; missing folders are made.
        pictures: uint8 [H, W, 3], RGB, all of one size, in order; read one by one.
        fps: pictures per second, above 0 and up to 1000.

    Raises:
        InputError: there are no pictures, one has another size or kind than the first (the text
            says which), or the codec cannot take this size.
        MissingDependencyError: the extra ``datasets`` is not installed.
        OSError: the location cannot be written; nothing is left there.
    """
    check_video(path, fps)
    import av

    frames = _equal_frames(path, pictures)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{path}: no pictures for a video")
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = new_part(path.parent)
        _encode(part, first, frames, Fraction(fps).limit_denominator(1001))
        publish(part, path)
    except av.FFmpegError as error:
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from None
        height, width = first.shape[:2]
        raise InputError(f"{path}: no video of {width}x{height} can be written ({error})") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        if part is not None:
            remove_part(part)


def check_video(path: Path, fps: float) -> None:
    """Check the arguments of a video; raises InputError or MissingDependencyError."""
    if path.suffix.lower() != ".mp4":
        raise InputError(f"{path}: a video is written as .mp4")
    if not 0 < fps <= _MAX_FPS:
        raise InputError(f"fps is {fps}; it is above 0 and at most {_MAX_FPS}")
    require(("av",), extra="datasets", purpose="Video")


def _encode(part: Path, first: Image, rest: Iterator[Image], fps: Fraction) -> None:
    import av
    from av.video.reformatter import ColorRange, Colorspace

    encoder = next(name for name in _ENCODERS if name in av.codecs_available)
    with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream: Any = container.add_stream(encoder, rate=fps)
        height, width = first.shape[:2]
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.options = _QUALITY if encoder == "libx264" else {}
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # limited
        for image in chain([first], rest):
            even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _equal_frames(path: Path, pictures: Iterable[Image]) -> Iterator[Image]:
    """The pictures, each checked."""
    size: tuple[int, ...] | None = None
    for number, image in enumerate(pictures):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InputError(
                f"{path}: picture {number} is {image.dtype} {list(image.shape)}, not uint8 "
                "[H, W, 3]"
            )
        size = size or image.shape
        if image.shape != size:
            raise InputError(
                f"{path}: picture {number} is {image.shape[1]}x{image.shape[0]}, the first one "
                f"{size[1]}x{size[0]}; a video has one size"
            )
        yield image
