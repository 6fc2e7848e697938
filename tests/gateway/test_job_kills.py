"""Jobs survive SIGKILL of the gateway: three moments here, ten with the real Triton server."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from gateway_jobs import JOBS, ZIP, SlowTransport, map_files, result, submit, wait, zip_of
from gateways import StartGateway, contract, serve_fake

from sceneloom.pictures import decode_picture
from sceneloom.rendering import render
from sceneloom.triton.client import TritonSynthesizer

if TYPE_CHECKING:
    from sceneloom_serving.embedded import EmbeddedServer


def survive(
    start_gateway: StartGateway, url: str, folder: Path, maps: dict[str, bytes], moments: list[int]
) -> dict[str, bytes]:
    """Kill the gateway when a job has made so many pictures, and take the next gateway; return
    the pictures of its result.
    """
    flags, id, cut = ("--jobs.folder", folder / "jobs"), "", 0
    for moment in [*moments, len(maps), None]:  # the last but one is killed after the end
        gateway = start_gateway(*flags, url=url)
        with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client:
            id = id or submit(client, zip_of(maps))["id"]
            job = wait(client, id, made=moment)
            if moment is not None:
                gateway.process.kill()
                gateway.process.wait(10)
                cut += job["state"] != "done"
                continue
            count = len(maps) // 2
            assert (job["state"], job["made"], job["failed"]) == ("done", count, 0)
            assert cut >= 0.8 * len(moments)
            found = result(client, id)
            assert len(found.pop("manifest.jsonl").splitlines()) == count
    return found


def test_a_job_survives_three_kills(start_gateway: StartGateway, tmp_path: Path) -> None:
    maps, slow = map_files(60), SlowTransport(contract(), 0.02)
    (tmp_path / "maps.zip").write_bytes(zip_of(maps))
    with ExitStack() as stack:
        triton = serve_fake(stack, slow)
        with TritonSynthesizer(triton.url) as synthesizer:
            list(render(synthesizer, tmp_path / "maps.zip", tmp_path / "wanted"))
        asked = len(slow.requests)
        found = survive(start_gateway, triton.url, tmp_path, maps, [0, 12, 30])
        again = len(slow.requests) - asked - 60
        # At most those in flight are made again; a gateway draws the smallest map when it connects.
        assert 0 <= again <= 3 * 4 + 3 * 4
    assert len(found) == 60
    for name, data in found.items():
        assert data == (tmp_path / "wanted" / name).read_bytes()


def test_a_kill_during_the_upload_leaves_nothing(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    flags, data = ("--jobs.folder", tmp_path / "jobs"), zip_of(map_files(4))
    gateway = start_gateway(*flags)
    sent = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield data[:1000]
        sent.set()
        time.sleep(0.3)
        yield data[1000:]

    def kill() -> None:
        sent.wait(10)
        time.sleep(0.1)
        gateway.process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with httpx.Client(trust_env=False, timeout=60) as client:
        with pytest.raises(httpx.HTTPError):
            client.post(f"{gateway.url}{JOBS}", content=slowly(), headers=ZIP)
        killer.join()
        assert len(list((tmp_path / "jobs").iterdir())) == 2  # a folder without a ticket
        gateway = start_gateway(*flags)
        assert client.get(f"{gateway.url}{JOBS}").json() == []
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [".lock"]


@pytest.mark.triton
@pytest.mark.slow
def test_a_job_survives_ten_kills(
    server: EmbeddedServer, start_gateway: StartGateway, tmp_path: Path
) -> None:
    """Ten moments, by the pictures made, of which one at least comes before the first picture."""
    maps = map_files(200, 64, 96)
    (tmp_path / "maps.zip").write_bytes(zip_of(maps))
    moments = [0, *sorted(random.Random(1).sample(range(1, 170), 9))]
    found = survive(start_gateway, server.grpc, tmp_path, maps, moments)
    with TritonSynthesizer(server.grpc) as synthesizer:
        list(render(synthesizer, tmp_path / "maps.zip", tmp_path / "wanted"))
    assert len(found) == 200
    for name, data in found.items():  # the server joins requests as they come
        wanted = decode_picture((tmp_path / "wanted" / name).read_bytes())
        assert np.abs(decode_picture(data).astype(int) - wanted).max() <= 1
