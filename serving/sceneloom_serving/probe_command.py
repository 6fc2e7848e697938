"""`sceneloom probe`: the health check of a server."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import (
    DeadlineExceededError,
    InputError,
    ModelFailedError,
    ModelNotFoundError,
    ServerStartError,
    SizeError,
)
from sceneloom.text import printable
from sceneloom.triton.client import TritonSynthesizer
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.transport import Timeouts
from sceneloom_serving.bundle import Golden, block_means, bundle_hash, load_golden, load_references
from sceneloom_serving.encoded_models import check_encoded_path
from sceneloom_serving.parity import check_golden


def main(
    repository: Annotated[Path, Positional, arg(metavar="REPOSITORY")],
    *,
    url: str = "127.0.0.1:8001",
    model: str = MODEL_NAME,
    timeout: float = 10.0,
) -> int:
    """Prove a running server with one real inference whose answer is known.

    A server goes on saying that it is ready after its model has died; this does not. Where the
    server has the encoded path, that is proven with a second one. A server that is too busy to
    answer in time is well as long as it answers others. Prints one line; the exit code is 0 if the
    picture is the one that was exported or the server is busy, else 1. Needs the base install only.

    Args:
        repository: folder that sceneloom export wrote, the one that is served.
        url: HOST:PORT of the server's gRPC port.
        model: name of the served model.
        timeout: seconds to wait for the answer.
    """
    start = time.perf_counter()
    try:
        timeouts = Timeouts(connect=timeout, infer=timeout)
        transport = GrpcTransport(url)
    except InputError as error:
        print(f"sceneloom probe: {error}", file=sys.stderr)
        return 2
    expected = bundle_hash(repository)
    with TritonSynthesizer(url, model=model, timeouts=timeouts, transport=transport) as synthesizer:
        if synthesizer.contract.bundle_hash != expected:
            raise ModelFailedError(
                f"{url}: serves bundle {synthesizer.contract.bundle_hash[:12]}, not "
                f"{expected[:12]} of {repository}"
            )
        golden = golden_for(repository, synthesizer.contract)
        # The answer to the probe itself does not count, nor does that of the encoded path's.
        answers = transport.answered(model, timeout=timeout) + 2
        try:
            difference = check_golden(synthesizer, golden, synthesizer.engine)
            left = max(timeout - (time.perf_counter() - start), 0.1)
            timeouts = Timeouts(connect=left, infer=left)
            ways = ""
            with contextlib.suppress(ModelNotFoundError):
                check_encoded_path(url, golden, synthesizer.engine, timeouts)
                ways = ", raw and encoded"
        except DeadlineExceededError:
            if transport.answered(model, timeout=timeout) <= answers:
                raise
            print(f"{url}: busy; it answered others, but not the probe within {timeout:g} s")
            return 0
    seconds = time.perf_counter() - start
    by = f" by {synthesizer.engine} ({synthesizer.precision})" if synthesizer.engine else ""
    print(
        f"{printable(url)}: right, {difference:.2f} grey levels from what was exported{by}{ways}, "
        f"{seconds:.3f} s"
    )
    return 0


def golden_for(repository: Path, contract: Contract) -> Golden:
    """The golden map, or for an engine of fixed sizes the reference map of such a size.

    Raises:
        ServerStartError: the bundle has none of a size that the engine takes, or is damaged.
    """
    golden = load_golden(repository)
    if _takes(contract, golden):
        return golden
    references = load_references(repository)
    for request, pictures in zip(references.requests, references.pictures, strict=True):
        golden = Golden(
            label_map=request.label_map,
            instance_map=request.instance_map,
            style=request.style,
            block_means=block_means(pictures[0]),
        )
        if _takes(contract, golden):
            return golden
    raise ServerStartError(f"{repository}: has no reference picture of a size that is served")


def _takes(contract: Contract, golden: Golden) -> bool:
    height, width = golden.label_map.shape
    try:
        contract.check_exact_size(height, width)
    except SizeError:
        return False
    return True
