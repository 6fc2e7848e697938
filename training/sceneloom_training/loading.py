"""Processes that load: what they make comes back in the order in which it was asked for.

Results travel through pipes, never through /dev/shm, which is 64 MiB in a container and which a
process that is killed leaves full. A process that is lost is noticed at once, because its pipe
ends; a training process that is lost ends its loading processes in the same way. They ignore the
signals that stop a run, and the end of the block kills them, whatever ended it.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from sceneloom.errors import InputError, SceneLoomError, TrainingError, is_out_of_memory, said
from sceneloom.text import reason

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

_LOST_S = 5.0
"""Longest wait for the exit code of a process that was lost."""
_SET_PIPE_SIZE = 1031
"""Linux's F_SETPIPE_SZ; the fcntl module of Python 3.10 has no name for some builds."""
_PIPE_BYTES = 1 << 20
"""What anyone may ask for; a batch of 2048x1024 is 14 MiB."""
_MADE, _REFUSED, _NO_MEMORY, _FAULT = range(4)


class _Loader(Generic[_Item, _Made]):
    """One loading process; it has one item at a time, so that no pipe can fill on both sides."""

    def __init__(
        self, make: Callable[[_Item], _Made], prepare: Callable[[], None], inherited: list[Any]
    ) -> None:
        # Forked: started within milliseconds, and with all that `make` has in memory.
        context = multiprocessing.get_context("fork")
        answers, theirs_out = context.Pipe(duplex=False)
        theirs_in, requests = context.Pipe(duplex=False)
        self._answers: Connection = answers
        self._requests: Connection = requests
        self.connections = [answers, requests]
        with contextlib.suppress(OSError):  # where it stays small, batches only take longer
            fcntl.fcntl(answers.fileno(), _SET_PIPE_SIZE, _PIPE_BYTES)
        self.process = context.Process(
            target=_serve,
            args=(make, prepare, theirs_in, theirs_out, [*inherited, *self.connections]),
            daemon=True,
        )
        self.process.start()
        theirs_in.close()
        theirs_out.close()

    def ask(self, item: _Item) -> None:
        with self._noticed():
            self._requests.send(item)

    def answer(self) -> _Made:
        with self._noticed():
            kind, value = _receive(self._answers)
        if kind == _REFUSED:
            raise InputError(value)
        if kind == _NO_MEMORY:
            raise MemoryError(value)
        if kind == _FAULT:
            raise RuntimeError(f"in a loading process: {value}")
        made: _Made = value
        return made

    @contextlib.contextmanager
    def _noticed(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            self.process.join(_LOST_S)
            code = self.process.exitcode
            how = f"killed by signal {-code}" if code is not None and code < 0 else f"code {code}"
            raise TrainingError(
                f"a loading process was lost ({how}); a system that runs out of memory kills "
                "processes: fewer workers and a smaller cache need less"
            ) from None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        for connection in self.connections:
            connection.close()


@contextlib.contextmanager
def loading(
    make: Callable[[_Item], _Made],
    items: Iterable[_Item],
    *,
    workers: int,
    prepare: Callable[[], None],
) -> Iterator[Iterator[_Made]]:
    """Make something of each item in processes of their own, which end with the block.

    Args:
        make: what the processes do, such as reading a batch; what it gives can be pickled.
        items: what it is given.
        workers: processes, from 1.
        prepare: called once in each process.

    Returns:
        what was made, in the order of the items; where `make` raised an error of SceneLoom's, an
        InputError in its turn.

    Raises:
        TrainingError: the processes cannot be started, or one was lost.
        MemoryError: memory was not enough in one.
    """
    loaders: list[_Loader[_Item, _Made]] = []
    try:
        try:
            for _ in range(workers):
                inherited = [each for loader in loaders for each in loader.connections]
                loaders.append(_Loader(make, prepare, inherited))
        except OSError as error:
            raise TrainingError(
                f"{workers} loading processes cannot be started ({reason(error)}); with fewer "
                "workers, or 0, the training process loads"
            ) from None
        yield _in_turn(loaders, iter(items))
    finally:
        for loader in loaders:
            loader.end()


def _in_turn(loaders: list[_Loader[_Item, _Made]], items: Iterator[_Item]) -> Iterator[_Made]:
    asked: deque[_Loader[_Item, _Made]] = deque()

    def ask(loader: _Loader[_Item, _Made]) -> None:
        for item in items:
            loader.ask(item)
            asked.append(loader)
            return

    for loader in loaders:
        ask(loader)
    while asked:
        loader = asked.popleft()
        made = loader.answer()
        ask(loader)
        yield made


def _serve(
    make: Callable[[Any], Any],
    prepare: Callable[[], None],
    requests: Connection,
    answers: Connection,
    inherited: list[Connection],
) -> None:
    """The whole life of a loading process."""
    # A service manager signals every process of a run: only the training one is to act on it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for connection in inherited:  # or they stay open here when the training process is lost
        connection.close()
    prepare()
    with contextlib.suppress(EOFError, OSError):  # the training process is gone
        while True:
            item = requests.recv()
            try:
                answer = (_MADE, make(item))
            except SceneLoomError as error:
                answer = (_REFUSED, str(error))
            except Exception as error:
                kind = _NO_MEMORY if is_out_of_memory(error) else _FAULT
                text = said(error) if kind == _NO_MEMORY else traceback.format_exc()
                answer = (kind, text)
            _send(answers, answer)


def _send(connection: Connection, value: Any) -> None:
    """Send a value; the memory of its arrays is written as it lies there."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    connection.send((data, [view.nbytes for view in views]))
    for view in views:
        while view:
            view = view[os.write(connection.fileno(), view) :]


def _receive(connection: Connection) -> Any:
    """Receive what `_send` sent; its arrays can be written to."""
    data, sizes = connection.recv()
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        view = memoryview(buffer)
        while view:
            read = os.readv(connection.fileno(), [view])
            if not read:
                raise EOFError
            view = view[read:]
    return pickle.loads(data, buffers=buffers)
