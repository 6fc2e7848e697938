"""POST /v1/jobs and its neighbours, over real sockets, before a fake Triton."""

from __future__ import annotations

import json
import re
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from gateway_jobs import (
    JOBS,
    ZIP,
    SlowTransport,
    as_shard,
    map_files,
    result,
    submit,
    tar_of,
    wait,
    zip_of,
)
from gateways import Gateway, StartGateway, Triton, contract, png, serve_fake, start
from support import blocky_maps, run_command

from sceneloom.pictures import decode_picture
from sceneloom.rendering import render
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer
from sceneloom_gateway.keys import Limits, new_key, write_keys

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def gateway(triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with ExitStack() as stack:
        yield start(
            stack, folder, "--triton", triton.url, "--jobs.folder", folder / "jobs", "--jobs.most",
            "1000", "--jobs.most-of-key", "1000",
        )  # fmt: skip


def test_a_job_makes_the_pictures_of_a_rendering_run(
    client: httpx.Client, triton: Triton, tmp_path: Path
) -> None:
    members = map_files(12)
    members["notes.txt"] = b"no map"
    (tmp_path / "maps.zip").write_bytes(zip_of(members))
    with TritonSynthesizer(triton.url) as synthesizer:
        list(render(synthesizer, tmp_path / "maps.zip", tmp_path / "pictures"))
    wanted = {
        file.relative_to(tmp_path / "pictures").as_posix(): file.read_bytes()
        for file in (tmp_path / "pictures").rglob("*.png")
    }
    del members["notes.txt"]
    folders = [(f"{name}/", b"") for name in ("./", "test_label", "test_label/a", "test_inst")]
    here = tarfile.TarInfo("./")
    here.type = tarfile.DIRTYPE
    for data in (
        zip_of([*folders, *members.items()]),
        tar_of([(here, b""), *((f"./{key}", file) for key, file in as_shard(members).items())]),
    ):
        job = submit(client, data)
        assert (job["wanted"], job["state"]) in ((12, "waiting"), (12, "running"))
        ended = wait(client, job["id"])
        assert (ended["state"], ended["made"], ended["failed"]) == ("done", 12, 0)
        found = result(client, job["id"])
        rows = [json.loads(line) for line in found.pop("manifest.jsonl").splitlines()]
        assert found == wanted
        assert {row["bundle_hash"] for row in rows} == {"a" * 64}
        assert client.delete(f"{JOBS}/{job['id']}").status_code == 204
        assert client.get(f"{JOBS}/{job['id']}").json()["status"] == 404


def test_the_routes_are_described(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {JOBS, f"{JOBS}/{{id}}", f"{JOBS}/{{id}}/events", f"{JOBS}/{{id}}/result"} < set(paths)
    names = {one["name"] for one in paths[JOBS]["post"]["parameters"]}
    assert {"looks", "style_seed", "boundaries", "format", "quality"} < names
    text = client.get("/metrics").text
    assert "sceneloom_gateway_jobs_running" in text
    assert "sceneloom_gateway_jobs_bytes" in text


def test_options_and_broken_maps(client: httpx.Client) -> None:
    members = {f"maps/{n}.png": png(blocky_maps(48, 64, seed=n)[0]) for n in range(3)}
    members["maps/3.png"] = png(np.full((48, 64), 99, np.uint8))  # no label of the model's
    members["maps/x.png"] = b"no picture"
    options = {"labels": "maps", "boundaries": "labels", "format": "jpg", "unknown": "unlabelled"}
    job = submit(client, zip_of(members), **options, quality=50)
    ended = wait(client, job["id"])
    assert (ended["state"], ended["made"], ended["failed"]) == ("done", 4, 1)
    assert ended["failures"][0].startswith("maps.zip/maps/x.png: ")  # no path of the server's
    found = result(client, job["id"])
    assert set(found) == {*(f"{n}.jpg" for n in range(4)), "manifest.jsonl"}
    assert decode_picture(found["0.jpg"]).shape == (48, 64, 3)
    assert b"jobs" not in found["manifest.jsonl"]
    assert [one["id"] for one in client.get(JOBS).json()].count(job["id"]) == 1


def test_looks_are_drawn_by_seed(start_gateway: StartGateway, tmp_path: Path) -> None:
    styled = contract(
        style_channels=2, style_clusters={26: ((1.0, 2.0), (3.0, 4.0)), 7: ((7.0, 8.0),)}
    )
    label = np.full((48, 64), 7, np.uint8)
    label[:, 32:] = 26
    instances = np.where(label == 26, 26001, 7).astype(np.uint16)
    members = {"test_label/a.png": png(label), "test_inst/a.png": png(instances)}
    with ExitStack() as stack:
        triton = serve_fake(stack, FakeTransport(styled))
        gateway = start_gateway("--jobs.folder", tmp_path / "jobs", url=triton.url)
        with httpx.Client(base_url=gateway.url, trust_env=False) as client:
            job = submit(client, zip_of(members), looks=3, style_seed=5)
            assert wait(client, job["id"])["made"] == job["wanted"] == 3
            rows = result(client, job["id"])["manifest.jsonl"].splitlines()
            seeds = [json.loads(json.loads(row)["style"])["seed"] for row in rows]
            assert seeds == [5, 6, 7]


def test_events_tell_the_progress_and_the_end(client: httpx.Client, triton: Triton) -> None:
    job = submit(client, zip_of(map_files(30)))
    answer = client.get(f"{JOBS}/{job['id']}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = re.findall(r"event: (\w+)\ndata: (.*)\n\n", answer.text)
    assert [kind for kind, _ in events] == ["progress"] * (len(events) - 1) + ["end"]
    made = [json.loads(text)["made"] for _, text in events]
    assert (made, made[-1]) == (sorted(made), 30)
    assert client.get(f"{JOBS}/{job['id']}/events").text.startswith("event: end")


@pytest.mark.parametrize(
    ("params", "status", "field", "words"),
    [
        ({"looks": "0"}, 422, "looks", "at least 1"),
        ({"looks": "x"}, 422, "looks", "whole number"),
        ({"quality": "101"}, 422, "quality", "at most 100"),
        ({"format": "jxl"}, 422, "format", "webp"),
        ({"boundaries": "edges"}, 422, "boundaries", "components"),
        ({"labels": "../x"}, 422, "labels", ".."),
        ({"lable": "x"}, 400, "lable", "did you mean labels?"),
        ({"style_file": "/etc/passwd"}, 400, "style_file", "did you mean"),
        ({"style_seed": "1"}, 422, None, "takes no style"),
        ({"labels": "elsewhere", "boundaries": "labels"}, 422, None, "test_inst, test_label"),
    ],
)
def test_wrong_options_are_refused(
    client: httpx.Client, params: dict[str, str], status: int, field: str | None, words: str
) -> None:
    answer = client.post(JOBS, content=zip_of(map_files(1)), headers=ZIP, params=params)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), problem
    assert problem.get("field") == field
    assert words in problem["detail"]
    assert "/" not in problem["detail"].replace("maps.zip/elsewhere", "").replace("../x", "")


def test_jobs_of_another_key_do_not_exist(start_gateway: StartGateway, tmp_path: Path) -> None:
    made = [new_key(name, Limits(rate=1000)) for name in ("alice", "bob")]
    write_keys(tmp_path / "keys.json", tuple(entry for entry, _ in made))
    alice, bob = ({"Authorization": f"Bearer {text}"} for _, text in made)
    gateway = start_gateway(
        *("--keys", tmp_path / "keys.json", "--keys-on-loopback"),
        *("--jobs.folder", tmp_path / "jobs", "--jobs.most-of-key", "2", "--jobs.most", "3"),
    )
    data = zip_of(map_files(2))
    with httpx.Client(base_url=gateway.url, trust_env=False) as client:
        assert client.get(JOBS).status_code == 401
        assert client.post(JOBS, content=data, headers=ZIP).status_code == 401
        ids = []
        for headers, status in ((alice, 201), (alice, 201), (alice, 429), (bob, 201), (bob, 429)):
            answer = client.post(JOBS, content=data, headers={**headers, **ZIP})
            assert answer.status_code == status, answer.text
            if status == 201:
                ids.append(answer.json()["id"])
            else:
                assert "delete one" in answer.json()["detail"]
                assert int(answer.headers["retry-after"]) >= 1
        for path in ("", "/events", "/result"):
            assert client.get(f"{JOBS}/{ids[0]}{path}", headers=bob).status_code == 404
        assert client.delete(f"{JOBS}/{ids[0]}", headers=bob).status_code == 404
        assert [one["id"] for one in client.get(JOBS, headers=bob).json()] == ids[2:]
        client.headers.update(alice)
        assert wait(client, ids[0])["state"] == "done"
        assert client.delete(f"{JOBS}/{ids[0]}").status_code == 204
        submit(client, data)  # there is room again


def test_single_requests_pass_a_job(start_gateway: StartGateway, tmp_path: Path) -> None:
    """The server draws one picture at a time, in 50 ms; the job alone keeps four in flight."""
    labels, instances = blocky_maps(48, 64, seed=1)
    files = {"label": png(labels), "instances": png(instances.astype("uint16"))}
    with ExitStack() as stack:
        slow = SlowTransport(contract(), 0.05)
        triton = serve_fake(stack, slow)
        gateway = start_gateway("--jobs.folder", tmp_path / "jobs", url=triton.url)
        with httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client:
            jobs = [submit(client, zip_of(map_files(60))) for _ in range(2)]
            wait(client, jobs[0]["id"], made=8)
            seconds = []
            for _ in range(8):
                begun = time.perf_counter()
                client.post("/v1/synthesize", files=files).raise_for_status()
                seconds.append(time.perf_counter() - begun)
            assert sorted(seconds)[4] < 0.35, seconds  # itself, one of a job's, and the rest
            assert slow.most_at_once <= 5
            states = [client.get(f"{JOBS}/{job['id']}").json() for job in jobs]
            assert [one["state"] for one in states] == ["running", "running"]
            begun = time.perf_counter()
            for job in jobs:  # DELETE does not wait for the rest
                assert client.delete(f"{JOBS}/{job['id']}").status_code == 204
            assert time.perf_counter() - begun < 2
            asked = len(slow.requests)
            time.sleep(0.5)
            assert len(slow.requests) <= asked + 4
            assert [path.name for path in (tmp_path / "jobs").iterdir()] == [".lock"]


def test_a_new_bundle_during_a_job_draws_all_of_it(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        old = serve_fake(stack, SlowTransport(contract(), 0.02))
        new = serve_fake(stack, FakeTransport(contract(bundle_hash="b" * 64)))
        servers = tmp_path / "servers"
        servers.write_text(old.url)
        gateway = start_gateway(
            "--triton-file", servers, "--jobs.folder", tmp_path / "jobs", url="-"
        )
        with httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client:
            job = submit(client, zip_of(map_files(60)))
            wait(client, job["id"], made=10)
            servers.write_text(new.url)
            gateway.process.send_signal(1)
            ended = wait(client, job["id"])
            assert (ended["state"], ended["made"], ended["failed"]) == ("done", 60, 0)
            rows = result(client, job["id"])["manifest.jsonl"].splitlines()
            assert {json.loads(row)["bundle_hash"] for row in rows} == {"b" * 64}


def test_a_job_waits_for_lost_servers(start_gateway: StartGateway, tmp_path: Path) -> None:
    with ExitStack() as stack:
        slow = SlowTransport(contract(), 0.02)
        triton = serve_fake(stack, slow)
        gateway = start_gateway(
            "--jobs.folder", tmp_path / "jobs", "--timeouts.infer", "1", url=triton.url
        )
        with httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client:
            job = submit(client, zip_of(map_files(40)))
            wait(client, job["id"], made=10)
            triton.stop()
            time.sleep(2)  # longer than a request waits
            assert client.get(f"{JOBS}/{job['id']}").json()["state"] == "running"
            serve_fake(stack, slow, int(triton.url.rpartition(":")[2]))
            ended = wait(client, job["id"])
            assert (ended["state"], ended["made"], ended["failed"]) == ("done", 40, 0)


def test_ended_jobs_expire_and_the_end_of_the_gateway_waits_for_no_stream(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        triton = serve_fake(stack, SlowTransport(contract(), 0.05))
        flags = ("--jobs.folder", tmp_path / "jobs")
        gateway = start_gateway(*flags, "--jobs.keep-seconds", "1", url=triton.url)
        with httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client:
            first = submit(client, zip_of(map_files(1)))
            expires = wait(client, first["id"])["expires"]
            time.sleep(max(0, expires - time.time()) + 1)
            assert client.get(f"{JOBS}/{first['id']}").status_code == 404
            assert not (tmp_path / "jobs" / first["id"]).exists()
            job = submit(client, zip_of(map_files(60)))
            assert client.get(f"{JOBS}/{job['id']}/result").status_code == 409
            with client.stream("GET", f"{JOBS}/{job['id']}/events") as stream:
                assert next(stream.iter_lines()) == "event: progress"
                begun = time.monotonic()
                assert gateway.end() == 0
                assert time.monotonic() - begun < 5
        gateway = start_gateway(*flags, url=triton.url)
        other = run_command("gateway", "--triton", triton.url, "--listen", "127.0.0.1:0", *flags)
        assert (other.returncode, "another gateway" in other.stderr) == (1, True)
        other = run_command("gateway", "--workers", "2", *flags)
        assert (other.returncode, "jobs are in one process" in other.stderr) == (1, True)
        with httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client:
            assert client.get(f"{JOBS}/{job['id']}").json()["made"] >= 1
            assert wait(client, job["id"])["made"] == 60
        gateway.logged(job=job["id"])
        log = [line for line in gateway.log() if "job" in line]
        assert [(line["job"], line["state"], line["made"]) for line in log] == [
            (job["id"], "done", 60)
        ]
