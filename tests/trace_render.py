"""What `sceneloom render` enters for one map: the product's files and functions.

    python tests/trace_render.py --url 127.0.0.1:8001 MAPS   # MAPS holds test_label and test_inst

Files count if a function of theirs is called, not if they are imported alone. Comprehensions and
lambdas belong to the function around them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

import sceneloom.render_command  # noqa: F401 - importing it is no part of what is counted
from sceneloom.cli import main

PACKAGES = ("sceneloom", "sceneloom_")


def trace(arguments: list[str]) -> Counter[tuple[str, str]]:
    """Run a command; (file, function) -> calls, of all its threads."""
    calls: Counter[tuple[str, str]] = Counter()

    def profile(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if (
            event == "call"
            and not code.co_filename.startswith("<")
            and frame.f_globals.get("__name__", "").startswith(PACKAGES)
        ):
            name = code.co_qualname.replace(".<locals>", "")
            if not name.rpartition(".")[2].startswith("<"):
                calls[code.co_filename, name] += 1

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        code = main(arguments)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    if code:
        sys.exit(f"the command ended with code {code}")
    return calls


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("maps", type=Path)
    parser.add_argument("--url", default="127.0.0.1:8001")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        found = trace(["render", str(given.maps), out, "--url", given.url, "--log", "none"])
    files = Counter(file for file, _ in found)
    for file, functions in sorted(files.items()):
        print(f"{functions:4} {Path(file).as_posix().rpartition('/sceneloom')[2]}")
    print(f"files {len(files)}, functions {len(found)}")
