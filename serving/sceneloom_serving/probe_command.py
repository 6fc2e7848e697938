"""`sceneloom probe`: the health check of a server."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from sceneloom import errors
from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.request import Request
from sceneloom.text import printable
from sceneloom.triton.access import AccessArguments, AccessFlags
from sceneloom.triton.client import TritonSynthesizer
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.transport import Timeouts, server_address
from sceneloom_serving.bundle import Golden, block_means, bundle_hash, load_golden, load_references
from sceneloom_serving.parity import check_golden

if TYPE_CHECKING:
    from sceneloom.triton.gateway_transport import GatewayTransport


def main(
    repository: Annotated[Path, Positional, arg(metavar="REPOSITORY")],
    *,
    url: str = "127.0.0.1:8001",
    model: str = MODEL_NAME,
    model_version: Annotated[str, arg(metavar="N")] = "",
    timeout: float = 10.0,
    access: AccessArguments = AccessFlags(),  # noqa: B008 - frozen
) -> int:
    """Prove a running server with one real inference whose answer is known.

    A server with a dead model still reports that it is ready; this check finds it. A server
    too busy to answer in time is well as long as it answers others. Prints one line; the exit code
    is 0 if the picture is the exported one or the server is busy, else 1. Needs the base install
    only.

    Args:
        repository: folder of the served export.
        url: HOST:PORT of the server's gRPC port (grpcs://HOST:PORT with TLS), or https://HOST:PORT
            of a gateway.
        model: name of the served model.
        model_version: Triton's number of its version; the latest without it.
        timeout: seconds to wait for the answer.
        access: API key, trusted certificates and headers.
    """
    start = time.perf_counter()
    try:
        timeouts = Timeouts(connect=timeout, infer=timeout)
        granted = access.read([url])
        transport: GrpcTransport | GatewayTransport
        if server_address(url)[0] in ("http", "https"):
            errors.require(("httpx",), extra="https", purpose="the probe of a gateway")
            from sceneloom.triton.gateway_transport import GatewayTransport

            transport = GatewayTransport(url, access=granted)
        else:
            transport = GrpcTransport(url, access=granted)
    except errors.InputError as error:
        print(f"sceneloom probe: {error}", file=sys.stderr)
        return 2
    expected = bundle_hash(repository)
    with TritonSynthesizer(
        url, model=model, version=model_version, timeouts=timeouts, transport=transport
    ) as synthesizer:
        served = synthesizer.contract.bundle_hash
        if served != expected:
            text = f"{url}: serves bundle {served[:12]}, not {expected[:12]} of {repository}"
            raise errors.ModelFailedError(text)
        golden = golden_for(repository, synthesizer.contract)
        # The answer to the probe itself does not count.
        answers = transport.answered(model, timeout=timeout) + 1
        try:
            difference = check_golden(synthesizer, golden)
        except errors.DeadlineExceededError:
            if transport.answered(model, timeout=timeout) <= answers:
                raise
            print(f"{url}: busy; it answered others, but not the probe within {timeout:g} s")
            return 0
    seconds = time.perf_counter() - start
    by = f" by {synthesizer.engine} ({synthesizer.precision})" if synthesizer.engine else ""
    print(
        f"{printable(url)}: right, {difference:.2f} grey levels from the exported picture"
        f"{by}, {seconds:.3f} s"
    )
    return 0


def golden_for(repository: Path, contract: Contract) -> Golden:
    """The golden map, or a reference map of an engine's fixed size; raises ServerStartError."""
    golden = load_golden(repository)
    if _takes(contract, golden.request):
        return golden
    references = load_references(repository)
    for request, pictures in zip(references.requests, references.pictures, strict=True):
        if _takes(contract, request):
            return Golden(request=request, block_means=block_means(pictures[0]))
    raise errors.ServerStartError(f"{repository}: has no reference picture of a served size")


def _takes(contract: Contract, request: Request) -> bool:
    with contextlib.suppress(errors.SizeError):
        contract.check_exact_size(*request.size)
        return True
    return False
