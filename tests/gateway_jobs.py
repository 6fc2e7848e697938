"""Archives of maps and jobs, for tests of the gateway."""

from __future__ import annotations

import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
import numpy as np
from gateways import png
from map_sets import add_to_tar
from support import blocky_maps

from sceneloom.contract import Contract
from sceneloom.maps import Array
from sceneloom.testing import FakeTransport

JOBS = "/v1/jobs"
ZIP = {"Content-Type": "application/zip"}
Members = Mapping[str, bytes]


def map_files(count: int, height: int = 48, width: int = 64) -> dict[str, bytes]:
    """Members of a zip file: test_label and test_inst."""
    members = {}
    for number in range(count):
        labels, instances = blocky_maps(height, width, seed=number)
        members[f"test_label/a/{number:04}.png"] = png(labels)
        members[f"test_inst/a/{number:04}.png"] = png(instances.astype(np.uint16))
    return members


def zip_of(members: Members | Iterable[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            archive.writestr(name, data)
    return out.getvalue()


def tar_of(members: Members | Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            if isinstance(name, tarfile.TarInfo):
                archive.addfile(name, io.BytesIO(data))
            else:
                add_to_tar(archive, name, data)
    return out.getvalue()


def as_shard(members: Members) -> dict[str, bytes]:
    """The members of `map_files` under the names of a WebDataset shard."""
    kinds = {"test_label": "label", "test_inst": "instance"}
    named = {}
    for name, data in members.items():
        folder, _, key = name.partition("/")
        named[f"{key.removesuffix('.png')}.{kinds[folder]}.png"] = data
    return dict(sorted(named.items()))


class SlowTransport(FakeTransport):
    """A server that draws one picture at a time, in some seconds."""

    def __init__(self, contract: Contract, seconds: float, **values: Any) -> None:
        super().__init__(contract, engine="fake-fp32", **values)
        self.seconds, self.most_at_once = seconds, 0
        self._at_once, self._one = 0, threading.Lock()

    def infer(self, *arguments: Any, **options: Any) -> Array:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            with self._one:
                time.sleep(self.seconds)
            return super().infer(*arguments, **options)
        finally:
            self._at_once -= 1


def submit(client: httpx.Client, data: bytes, **options: str | int) -> dict[str, Any]:
    answer = client.post(JOBS, content=data, headers=ZIP, params=options)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"{JOBS}/{answer.json()['id']}"
    return dict(answer.json())


def wait(
    client: httpx.Client, id: str, made: int | None = None, seconds: float = 60
) -> dict[str, Any]:
    """The job once it has ended, or has made so many pictures."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = client.get(f"{JOBS}/{id}").raise_for_status().json()
        if job["state"] in ("done", "failed") or (made is not None and job["made"] >= made):
            return dict(job)
        time.sleep(0.02)
    raise AssertionError(f"not ended: {job}")


def result(client: httpx.Client, id: str) -> dict[str, bytes]:
    """The members of a job's result."""
    answer = client.get(f"{JOBS}/{id}/result")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}
