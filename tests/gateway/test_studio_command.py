"""`sceneloom studio` as users run it: one line, a page that works, and nothing left at its end."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import httpx
import numpy as np
import psutil
import pytest
from gateways import png
from support import COMMAND, blocky_maps

if TYPE_CHECKING:
    from sceneloom_export.bundle import Exported


@pytest.mark.triton
def test_it_serves_the_page_says_its_address_and_leaves_nothing(exported: Exported) -> None:
    studio = subprocess.Popen(
        [*COMMAND, "studio", str(exported.repository), "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert studio.stdout is not None
        ready, url = studio.stdout.readline().split()
        assert (ready, url.endswith("/studio/")) == ("ready", True)
        label_map, instance_map = blocky_maps(64, 96, seed=2, labels=34)
        files = {"label": png(label_map), "instances": png(instance_map.astype(np.uint16))}
        with httpx.Client(base_url=url.removesuffix("studio/"), trust_env=False) as client:
            assert "<h1>SceneLoom <span>studio</span></h1>" in client.get("studio/").text
            answer = client.post("v1/synthesize", files=files, timeout=60)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        children = psutil.Process(studio.pid).children(recursive=True)
        assert children
    finally:
        studio.send_signal(signal.SIGTERM)
        said, errors = studio.communicate(timeout=60)
    assert (studio.returncode, said) == (0, "")
    assert errors.splitlines()[-1] == "stopped"
    assert "{" not in errors  # a log of requests is for operators
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
