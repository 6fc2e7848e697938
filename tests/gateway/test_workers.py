"""`sceneloom gateway --workers 2`: one address, one set of metrics, signals for all."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from gateways import Gateway, StartGateway, Triton, contract, serve_fake
from support import run_command

from sceneloom.testing import FakeTransport

ROUTE = "/v1/synthesize"


def workers_of(gateway: Gateway) -> list[psutil.Process]:
    """The serving processes: those with threads of gRPC, not Python's resource tracker."""
    children = psutil.Process(gateway.process.pid).children()
    return [one for one in children if "spawn_main" in " ".join(one.cmdline())]


def ask(gateway: Gateway, maps: dict[str, bytes], count: int) -> list[httpx.Response]:
    """Answers, each on a connection of its own."""
    url = gateway.url + ROUTE
    return [httpx.post(url, files=maps, trust_env=False, timeout=30) for _ in range(count)]


def test_two_workers(
    start_gateway: StartGateway, triton: Triton, tmp_path: Path, maps: dict[str, bytes]
) -> None:
    with ExitStack() as stack:
        other = serve_fake(stack, FakeTransport(contract(bundle_hash="b" * 64)))
        file = tmp_path / "servers.txt"
        file.write_text(triton.url)
        gateway = start_gateway("--workers", "2", "--triton-file", file, url="-")
        assert len(workers_of(gateway)) == 2
        assert [one.status_code for one in ask(gateway, maps, 12)] == [200] * 12
        metrics = httpx.get(f"{gateway.url}/metrics", trust_env=False).text
        name = f'request_seconds_count{{route="{ROUTE}",status="200"}}'
        (count,) = re.findall(rf"{re.escape(name)} (\S+)", metrics)
        assert float(count) == 12
        assert "sceneloom_gateway_pictures_waiting 0.0" in metrics

        file.write_text(other.url)
        gateway.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while gateway.log_path.read_text("utf-8").count("may be stopped") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        bundles = {one.headers["sceneloom-bundle"] for one in ask(gateway, maps, 12)}
        assert bundles == {"b" * 64}

        lost = workers_of(gateway)[0]
        os.kill(lost.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while f"worker {lost.pid} ended" not in gateway.log_path.read_text("utf-8"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert [one.status_code for one in ask(gateway, maps, 4)] == [200] * 4
        while len(workers_of(gateway)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = workers_of(gateway)
        assert gateway.end() == 0
        assert not any(one.is_running() for one in children)
        assert "Traceback" not in gateway.log_path.read_text("utf-8")


@pytest.mark.slow
def test_workers_end_with_their_parent(start_gateway: StartGateway) -> None:
    gateway = start_gateway("--workers", "2")
    children = workers_of(gateway)
    gateway.process.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_command() -> None:
    flags = ("--triton", "127.0.0.1:1", "--workers", "2", "--listen", "127.0.0.1:0")
    done = run_command("gateway", *flags)
    assert (done.returncode, "not reachable" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
