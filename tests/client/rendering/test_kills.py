"""The real command against the real server while both are killed; `make soak` does it longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from noop_server import NoopServer, write_noop_repository
from render_limits import (
    Client,
    SoakSettings,
    compare,
    render_and_kill,
    watch_memory,
    write_small_maps,
)
from sceneloom.rendering.manifest import FILE_NAME, Manifest

pytestmark = pytest.mark.triton


@pytest.mark.parametrize(
    ("container", "client_kills", "server_kills"),
    [("folder", 3, 2), pytest.param("tar", 2, 0, marks=pytest.mark.slow)],
)
def test_nothing_is_lost_and_nothing_is_done_twice(
    tmp_path: Path, container: str, client_kills: int, server_kills: int
) -> None:
    settings = SoakSettings(
        maps=200,
        client_kills=client_kills,
        server_kills=server_kills,
        container=container,  # type: ignore[arg-type]
    )
    found = render_and_kill(tmp_path, settings)
    assert found["pictures"] == 200
    assert (found["client_kills"], found["server_kills"]) == (client_kills, server_kills)
    assert found["attempts_per_picture"] < 3
    assert found["left_in_shared_memory"] == []


def test_a_signal_lets_what_is_under_way_finish(tmp_path: Path) -> None:
    maps, pictures = tmp_path / "maps", tmp_path / "pictures"
    write_small_maps(maps, 150)
    repository = write_noop_repository(tmp_path / "repository", delay_per_picture=0.01)
    with NoopServer(repository) as server:
        client = Client(maps, pictures, server.grpc, "folder")
        assert client.wait_until(20)
        client.process.send_signal(signal.SIGTERM)
        assert client.wait() == 128 + signal.SIGTERM
        assert "the same command resumes the run" in client.said()
        with Manifest(pictures / FILE_NAME) as manifest:
            counts = Counter(row.status for row in manifest.rows())
        assert counts.keys() == {"done"}
        assert f"rendered {counts['done']} of 150 maps" in client.said()
        assert 20 <= counts["done"] < 150
        assert len(list(pictures.glob("*.png"))) == counts["done"]
        client = Client(maps, pictures, server.grpc, "folder")
        assert client.wait() == 0
    assert f"; {counts['done']} were there already" in client.said()
    assert compare(maps, pictures, "folder") == {"pictures": 150, "attempts_per_picture": 1.0}


@pytest.mark.slow
def test_two_hundred_maps_at_once_against_a_queue_of_four(tmp_path: Path) -> None:
    maps, pictures = tmp_path / "maps", tmp_path / "pictures"
    write_small_maps(maps, 200)
    repository = write_noop_repository(
        tmp_path / "repository", queue_size=4, delay_per_picture=0.01, max_batch_size=1
    )
    command = [sys.executable, "-m", "sceneloom.cli", "render", str(maps), str(pictures)]
    command += ["--labels", ".", "--instances", ".", "--log", "json", "--patience", "30"]
    with NoopServer(repository) as server:
        # Three clients at once: one alone would keep its window below the queue's size.
        runs = [
            subprocess.Popen(
                [*command, "--url", server.grpc, "--shard", f"{n}/3"],
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(3)
        ]
        said = [run.communicate(timeout=100) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    assert len(list(pictures.glob("*.png"))) == 200
    attempts = pictures_done = 0
    for number in range(3):
        with Manifest(pictures / f"manifest-{number:05d}-of-00003.sqlite") as manifest:
            attempts += sum(row.attempts for row in manifest.rows())
            pictures_done += Counter(row.status for row in manifest.rows())["done"]
    assert pictures_done == 200
    assert 200 < attempts < 3 * 200


def test_memory_stays_where_it_is(tmp_path: Path) -> None:
    found = watch_memory(tmp_path, SoakSettings(steady_maps=800))
    assert found["samples"] >= 3
    assert found["growth_mib"] < 50


def test_a_server_that_stands_still_for_a_while(tmp_path: Path) -> None:
    maps, pictures = tmp_path / "maps", tmp_path / "pictures"
    write_small_maps(maps, 60)
    repository = write_noop_repository(tmp_path / "repository", delay_per_picture=0.01)
    with NoopServer(repository) as server:
        client = Client(maps, pictures, server.grpc, "folder")
        assert client.wait_until(10)
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(server.pid, signal.SIGCONT)
        assert client.wait() == 0
    assert compare(maps, pictures, "folder")["pictures"] == 60
