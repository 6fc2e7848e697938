"""Everything that takes turns, loaded one after another: engines in processes of their own, and the
server that runs the default one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence

from sceneloom import TritonSynthesizer
from sceneloom.errors import EngineError, SceneLoomError
from sceneloom.synthesizer import Request
from sceneloom_bench.engine.bundle import Bundle
from sceneloom_bench.engine.contenders import SERVED, Contender
from sceneloom_bench.engine.engine_process import EngineProcess
from sceneloom_bench.engine.turns import Runner, Turns
from sceneloom_bench.reports.report import say
from sceneloom_bench.served import ServedSettings, served
from sceneloom_serving.engines import ENGINES, peak_memory_mib
from sceneloom_serving.parity import Precision


@dataclasses.dataclass(kw_only=True)
class Loaded:
    """One that is ready to take turns."""

    name: str
    """As the table has it."""
    precision: Precision
    """Whose limits hold."""
    how: str
    """In words."""
    runner: Runner
    """Holds the maps."""
    largest: int
    """Most pictures at once."""
    peak_memory: Callable[[], float]
    """MiB of the process so far."""
    bare: str | None = None
    """The engine beside it that a server runs."""
    gpu_mib: float = 0.0
    """Of the GPU's memory so far."""


def load_all(
    contenders: Sequence[Contender],
    maps: Sequence[Request],
    stack: contextlib.ExitStack,
    gpu_used: Callable[[], float],
) -> tuple[dict[str, Loaded], dict[str, str]]:
    """Start a process for each, the next once the one before is loaded.

    Args:
        contenders: what is loaded.
        maps: given to each.
        stack: ends the processes.
        gpu_used: MiB of the GPU's memory in use.

    Returns:
        those that are ready, and why each other one is not.
    """
    loaded, cannot = {}, {}
    for contender in contenders:
        say(f"loading {contender.name}")
        before = gpu_used()
        process = stack.enter_context(EngineProcess(contender.open))
        try:
            largest = process.ready()
            process.hold(maps)
        except SceneLoomError as error:
            cannot[contender.name] = str(error)
            continue
        loaded[contender.name] = Loaded(
            name=contender.name,
            precision=contender.precision,
            how=contender.how,
            runner=process,
            largest=largest,
            peak_memory=functools.partial(getattr, process, "peak_memory_mib"),
            gpu_mib=gpu_used() - before,
        )
    return loaded, cannot


def load_served(
    bundle: Bundle,
    bare: Sequence[str],
    maps: Sequence[Request],
    stack: contextlib.ExitStack,
    gpu_used: Callable[[], float],
) -> Loaded:
    """Serve the bundle's default engine with the bundled Triton.

    Args:
        bundle: what is served.
        bare: the engines that are measured beside it.
        maps: that its client holds.
        stack: stops the server.
        gpu_used: MiB of the GPU's memory in use.

    Raises:
        EngineError: the default engine is not among the bare ones.
        SceneLoomError: the server cannot be started; the text says why.
    """
    if bundle.engine not in bare:
        raise EngineError(f"the default engine, {bundle.engine}, is not measured beside it")
    say(f"starting Triton with {bundle.engine}")
    before = gpu_used()
    settings = ServedSettings(repository=bundle.repository, engine=bundle.engine)
    running = stack.enter_context(served(settings))
    client = stack.enter_context(TritonSynthesizer(running.grpc))
    turns = Turns(client)
    turns.hold(maps)
    assert running.embedded is not None
    return Loaded(
        name=SERVED,
        precision=ENGINES[bundle.engine].precision,
        how=f"{bundle.engine} in the bundled Triton, over gRPC; memory is of the model's process",
        runner=turns,
        largest=client.max_batch_size,
        peak_memory=functools.partial(peak_memory_mib, running.embedded.model_processes[0]),
        bare=bundle.engine,
        gpu_mib=gpu_used() - before,
    )
