"""Gateways before one fake Triton, a client, and the files of a request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from gateways import Gateway, StartGateway, Triton, contract, png, serve_fake, start
from support import blocky_maps

from sceneloom.testing import FakeTransport


@pytest.fixture(scope="module")
def triton() -> Iterator[Triton]:
    with ExitStack() as stack:
        yield serve_fake(stack, FakeTransport(contract(), engine="fake-fp32"))


@pytest.fixture(scope="module")
def gateway(triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway without flags, shared by the tests of a file."""
    with ExitStack() as stack:
        yield start(
            stack,
            tmp_path_factory.mktemp("gateway"),
            *("--triton", triton.url, "--max-bytes", "300000", "--max-pixels", "40000"),
            *("--body-seconds", "1", "--header-seconds", "1"),
        )


@pytest.fixture
def start_gateway(triton: Triton, tmp_path: Path) -> Iterator[StartGateway]:
    with ExitStack() as stack:

        def begin(*flags: str | Path, url: str = "") -> Gateway:
            servers = () if url == "-" else ("--triton", url or triton.url)
            return start(stack, tmp_path, *servers, *flags)

        yield begin


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as found:
        yield found


@pytest.fixture(scope="session")
def maps() -> dict[str, bytes]:
    """The two files of a request, 64x48."""
    label_map, instance_map = blocky_maps(48, 64, seed=1)
    return {"label": png(label_map), "instances": png(instance_map.astype(np.uint16))}
