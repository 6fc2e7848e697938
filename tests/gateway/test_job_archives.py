"""Hostile archives are refused with a problem, in bounded memory; a full disk ends one job."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import httpx
import numpy as np
import pytest
from gateway_jobs import JOBS, ZIP, as_shard, map_files, result, submit, tar_of, wait, zip_of
from gateways import Gateway, StartGateway, Triton, png, start

from sceneloom.errors import SceneLoomError
from sceneloom.rendering.datasets import open_source
from sceneloom_gateway.job_routes import check_archive
from sceneloom_gateway.jobs import JobSettings
from sceneloom_gateway.problems import Problem

PROBLEM = "application/problem+json"
MIB = 1 << 20


@pytest.fixture(scope="module")
def gateway(triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Jobs of at most 256 MiB and 40 members; maps of at most 40,000 pixels."""
    folder = tmp_path_factory.mktemp("gateway")
    flags = {"folder": folder / "jobs", "bytes": 256 * MIB, "members": 40, "upload-seconds": 20}
    with ExitStack() as stack:
        yield start(
            stack,
            folder,
            *("--triton", triton.url, "--max-pixels", "40000", "--max-bytes", "300000"),
            *(word for name, value in flags.items() for word in (f"--jobs.{name}", str(value))),
        )


def named(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = "/etc/passwd"
    return info


def zipped_link(name: str) -> bytes:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return zip_of([(info, b"/etc/passwd")])


def changed(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


def directory_of(entries: int) -> bytes:
    """A zip file that is a directory alone, of as many members as fit its count, and more."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<HHH", 1, 0, 0) + bytes(12) + b"a"
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, entries * len(entry), 0, 0)
    return b"PK\x03\x04" + entry * entries + end


def pax_chain(headers: int) -> bytes:
    """Attributes of all members, again and again, each of them a new one."""
    out = b""
    for number in range(headers):
        words = f" k{number}={'x' * 900}\n"
        record = f"{len(words) + 3}{words}".encode()
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XGLTYPE, len(record)
        out += info.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)
    return out + bytes(1024)


ENTRY = b"PK\x01\x02\x14\x03\x14\0"  # the flags follow
HOSTILE: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "traversal": (lambda: zip_of({"test_label/../../x.png": b"x"}), 422, "'..'"),
    "absolute": (lambda: zip_of({"/etc/x.png": b"x"}), 422, "absolute path"),
    "backslashes": (lambda: zip_of({"a\\..\\x.png": b"x"}), 422, "backslash"),
    "control": (lambda: zip_of({"a\nb.png": b"x"}), 422, "control character"),
    "null": (lambda: changed(zip_of({"a_b.png": b"x"}), b"a_b", b"a\0b"), 422, "null"),
    "long": (lambda: zip_of({f"{'x' * 1100}.png": b"x"}), 422, "1024 at most"),
    "link": (lambda: zipped_link("test_label/x.png"), 422, "a link"),
    "twice": (lambda: changed(zip_of({"a.png": b"", "b.png": b""}), b"b.p", b"a.p"), 422, "two of"),
    "many": (lambda: zip_of({f"{n}.png": b"" for n in range(41)}), 413, "more than 40"),
    "bomb": (lambda: zip_of({"test_label/x.png": bytes(2 * MIB)}), 413, "2,097,152 bytes"),
    "encrypted": (
        lambda: changed(zip_of({"a.png": b"x"}), ENTRY + b"\0", ENTRY + b"\1"),
        422,
        "encrypted",
    ),
    "directory": (lambda: directory_of(20_000), 422, "headers are too large"),
    "cut": (lambda: zip_of(map_files(4))[:-30], 422, "damaged"),
    "no maps": (lambda: zip_of({"notes.txt": b"x"}), 422, "no maps"),
    "empty": (lambda: zip_of({}), 422, "no maps"),
    "picture": (lambda: png(np.zeros((8, 8), np.uint8)), 415, "neither a zip nor a tar"),
    "nothing": (lambda: b"", 415, "neither a zip nor a tar"),
    "gzip": (lambda: b"\x1f\x8b" + bytes(600), 415, "send the .tar"),
    "tar traversal": (lambda: tar_of({"../x.label.png": b"x"}), 422, "'..'"),
    "tar absolute": (lambda: tar_of([(named("/x.label.png"), b"")]), 422, "absolute path"),
    "tar link": (lambda: tar_of([(named("x.label.png", tarfile.SYMTYPE), b"")]), 422, "a link"),
    "tar hard link": (lambda: tar_of([(named("x", tarfile.LNKTYPE), b"")]), 422, "a link"),
    "tar device": (lambda: tar_of([(named("x", tarfile.CHRTYPE), b"")]), 422, "a device"),
    "tar twice": (lambda: tar_of([("x", b"1"), ("x", b"2")]), 422, "two of this name"),
    "tar many": (lambda: tar_of({f"{n}.label.png": b"" for n in range(41)}), 413, "more than 40"),
    "tar bomb": (lambda: tar_of([(named("x", size=2 * MIB), bytes(2 * MIB))]), 413, "a member"),
    "tar size": (lambda: named("x", size=1 << 33).tobuf(), 413, "a member"),
    "tar cut": (lambda: tar_of(as_shard(map_files(4)))[:3000], 422, "damaged"),
    "tar headers": (lambda: pax_chain(1500), 422, "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(gateway: Gateway, client: httpx.Client, name: str) -> None:
    make, status, words = HOSTILE[name]
    answer = client.post(JOBS, content=make(), headers={"Content-Type": "application/octet-stream"})
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), problem
    assert words in problem["detail"]
    assert client.get(JOBS).json() == []
    assert "Traceback" not in gateway.log_path.read_text()


def test_forms_and_large_bodies_are_refused(gateway: Gateway, client: httpx.Client) -> None:
    answer = client.post(JOBS, files={"maps": b"PK"})
    assert (answer.status_code, "-T maps.zip" in answer.json()["detail"]) == (415, True)
    with contextlib.closing(HTTPConnection("127.0.0.1", gateway.port, timeout=10)) as connection:
        connection.putrequest("POST", JOBS)
        connection.putheader("Content-Length", str(257 * MIB))
        connection.endheaders()  # the answer comes before the body
        refused = connection.getresponse()
        assert (refused.status, b"268,435,456" in refused.read()) == (413, True)


def memory(gateway: Gateway) -> int:
    """Most bytes of memory that the gateway has had."""
    text = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return 1024 * int(text.partition("VmHWM:")[2].split()[0])


def test_an_upload_goes_to_the_disk_in_bounded_memory(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = start_gateway("--jobs.folder", tmp_path / "jobs")
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client:
        wait(client, submit(client, zip_of(map_files(2)))["id"])
        before, archive = memory(gateway), tmp_path / "maps.tar"
        with tarfile.open(archive, "w") as tar:
            for key, data in as_shard(map_files(2)).items():
                (tmp_path / "one").write_bytes(data)
                tar.add(tmp_path / "one", key)
            (tmp_path / "one").write_bytes(bytes(60 * MIB))
            for number in range(4):
                tar.add(tmp_path / "one", f"other-{number}")
        with archive.open("rb") as stream:
            answer = client.post(
                JOBS, content=stream, headers={"Content-Type": "application/x-tar"}
            )
        assert answer.status_code == 201, answer.text
        job = wait(client, answer.json()["id"])
        assert (job["made"], "other-0" in job["left_out"][0]) == (2, True)
        assert memory(gateway) - before < 64 * MIB


def test_an_upload_that_breaks_off_leaves_nothing(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = start_gateway("--jobs.folder", tmp_path / "jobs", "--jobs.upload-seconds", "1")
    pieces = iter([b"PK", b"x" * MIB])

    def broken() -> Iterator[bytes]:
        yield from pieces
        raise KeyboardInterrupt

    def slow() -> Iterator[bytes]:
        for _ in range(30):
            yield b"PK"
            time.sleep(0.1)

    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client:
        with pytest.raises(KeyboardInterrupt):
            client.post(JOBS, content=broken(), headers=ZIP)
        assert client.post(JOBS, content=slow(), headers=ZIP).status_code == 408
        assert client.get("/v1/model").status_code == 200
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [".lock"]
    assert "Traceback" not in gateway.log_path.read_text()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_one_job_with_a_reason(
    start_gateway: StartGateway, small_disk: Path, maps: dict[str, bytes]
) -> None:
    flags = ("--jobs.folder", small_disk / "jobs")
    gateway = start_gateway(*flags)
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client:
        large = map_files(30, 256, 256)
        answer = client.post(JOBS, content=zip_of(map_files(1)) + bytes(2 * MIB), headers=ZIP)
        assert (answer.status_code, "No space left" in answer.json()["detail"]) == (507, True)
        (small_disk / "other").write_bytes(bytes(MIB - len(zip_of(large)) - 150_000))
        job = submit(client, zip_of(large), looks=1)
        ended = wait(client, job["id"])
        assert ended["state"] == "failed", ended
        assert "No space left" in ended["reason"] or "disk is full" in ended["reason"]
        assert str(small_disk) not in ended["reason"]
        answer = client.post("/v1/synthesize", files=maps)
        assert answer.status_code == 200
        assert client.get("/readyz").status_code == 200
        assert len(result(client, job["id"])) == ended["made"] + 1
        (small_disk / "other").unlink()
        assert wait(client, submit(client, zip_of(map_files(3)))["id"])["made"] == 3
        assert client.delete(f"{JOBS}/{job['id']}").status_code == 204
    gateway.process.kill()
    gateway = start_gateway(*flags)
    assert len(httpx.get(f"{gateway.url}{JOBS}", trust_env=False).json()) == 1


def test_the_share_of_the_disk_is_kept(start_gateway: StartGateway, tmp_path: Path) -> None:
    gateway = start_gateway("--jobs.folder", tmp_path / "jobs", "--jobs.disk", "105000")
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client:
        job = submit(client, zip_of(map_files(16, 128, 128)))
        ended = wait(client, job["id"])
        assert (ended["state"], "--jobs.disk" in ended["reason"]) == ("failed", True), ended
        assert 0 < ended["made"] < 16
        assert len(result(client, job["id"])) == ended["made"] + 1
        answer = client.post(JOBS, content=zip_of(map_files(16, 128, 128)), headers=ZIP)
        assert (answer.status_code, "delete some" in answer.json()["detail"]) == (507, True)
        assert client.delete(f"{JOBS}/{job['id']}").status_code == 204
        assert wait(client, submit(client, zip_of(map_files(1)))["id"])["state"] == "done"


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_damaged_bytes_anywhere_are_an_error_of_the_family(tmp_path: Path, kind: str) -> None:
    """An archive with a few random bytes changed is refused, or its maps are, each by name."""
    rng, maps = np.random.default_rng(3), map_files(3)
    whole = np.frombuffer(zip_of(maps) if kind == "zip" else tar_of(as_shard(maps)), np.uint8)
    headers = np.flatnonzero(whole) if kind == "tar" else np.arange(len(whole))
    statuses, path = [], tmp_path / f"maps.{kind}"
    for _ in range(500):
        data = whole.copy()
        data[rng.choice(headers, rng.integers(1, 6))] = rng.integers(0, 256)
        end = rng.integers(len(data)) if rng.random() < 0.2 else len(data)
        path.write_bytes(data[:end].tobytes())
        try:
            check_archive(path, JobSettings(members=40), 40_000)
        except Problem as problem:
            statuses.append(problem.status)
            continue
        with contextlib.suppress(SceneLoomError):
            for item in open_source(str(path), wants_instances=True):
                for file in (item.label, item.instance):
                    with contextlib.suppress(SceneLoomError):
                        file.read(1 << 20) if file is not None else None
    assert len(statuses) > 100
    assert set(statuses) <= {413, 415, 422}
