"""A label map of the demo beside its picture, for the top of the README.

make demo
python examples/street_demo/picture.py build/demo docs/street.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

SIZE = (1024, 512)
"""(width, height) of each half in pixels."""


def main(demo: Path, out: Path) -> None:
    """Write the first street of a finished demo as a JPEG."""
    halves = [
        demo / "page" / "street_000_labelIds_labels.png",
        demo / "pictures" / "street_000_labelIds.png",
    ]
    pictures = [
        cv2.resize(cv2.imread(str(path)), SIZE, interpolation=cv2.INTER_AREA) for path in halves
    ]
    out.write_bytes(cv2.imencode(".jpg", np.hstack(pictures), [cv2.IMWRITE_JPEG_QUALITY, 88])[1])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
