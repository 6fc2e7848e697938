"""Every error that SceneLoom raises on purpose, in one family.

    SceneLoomError
    ├── InputError (also ValueError)     something the user gave does not fit; never retry
    │   ├── ImageReadError               a file cannot be read or decoded
    │   ├── ImageTooLargeError           an image is above the pixel limit
    │   ├── NotALabelMapError            a picture, or a lossy format, where class ids were expected
    │   ├── UnknownLabelError            label ids that the schema does not have
    │   ├── SizeError                    sizes that differ, or that the model does not take
    │   ├── DataSetError                 a data set's folder is not laid out as its publisher does
    │   ├── MissingInputError            an input that the model wants was not given
    │   └── TooManyInstancesError        more instances than the style table has rows
    ├── SchemaError (also ValueError)    a label schema or contract that is not valid
    ├── CheckpointError                  weights that cannot be read or do not fit
    ├── TrainingError                    a training run that cannot start or go on
    │   ├── DivergedError                a loss or a weight is no longer a finite number
    │   └── LostPeerError                another process of the run has ended, or is not reached
    ├── ExportError                      a model that cannot be exported
    │   ├── GraphRuleError               the graph breaks a rule of the engines that will run it
    │   └── ParityError                  an engine's pictures differ from PyTorch's
    ├── EngineError                      an engine that this machine cannot build, load or run
    │   └── PlanRefusedError             a TensorRT plan that is not what its record says
    ├── OutOfResourcesError              this machine has no memory, or no thread, left
    ├── MissingDependencyError           an optional package is not installed (also ImportError)
    ├── ServerStartError                 the bundled server did not come up
    └── ServingError                     a request was not answered; `retryable` says what to do
        ├── QueueFullError               retryable: back off, then send again
        ├── QueueTimeoutError            retryable: waited in the server's queue for too long
        ├── DeadlineExceededError        retryable: the client's deadline passed; it may still run
        ├── ServerUnavailableError       retryable: not reachable, starting or stopping
        │   └── ConnectionClosedError    not retryable: its owner has closed the connection
        ├── ModelNotFoundError           the server has no such model
        ├── RequestRejectedError         the server says the request is wrong; never retry
        └── ModelFailedError             the model broke while it ran, or its process died

Foreign errors are mapped to this family in one place each: decoders of maps in `sceneloom.maps`, of
pictures in `sceneloom.pictures`; a server's answers, over gRPC and HTTP, in
`sceneloom.triton.transport`. Places that cannot be read or written are OSErrors, remote ones too
(`sceneloom.locations`).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from typing import ClassVar

from sceneloom.text import one_line


class SceneLoomError(Exception):
    """Base of every error raised on purpose; its text is one sentence meant for the user."""


class InputError(SceneLoomError, ValueError):
    """Something the user gave does not fit; nothing was sent to a server."""


class ImageReadError(InputError):
    """A file cannot be read or decoded: missing, empty, truncated, damaged or unknown."""


class ImageTooLargeError(InputError):
    """An image has more pixels than the limit allows; its pixels were not decoded."""


class NotALabelMapError(InputError):
    """A colour picture, or a lossy file format, was given where class or instance ids were
    expected.
    """


class UnknownLabelError(InputError):
    """A label map holds ids that the schema does not have.

    Args:
        message: the sentence for the user.
        counts: file value -> number of pixels, for every unknown value.
    """

    def __init__(self, message: str, counts: dict[int, int]) -> None:
        super().__init__(message)
        self.counts = counts


class SizeError(InputError):
    """Two maps of one picture differ in size, or the model does not take this size."""


class DataSetError(InputError):
    """A data set's folder is not laid out as its publisher does: the text names the file or folder
    and what was expected.
    """


class MissingInputError(InputError):
    """The model wants an input (instance map, style) that was not given."""


class TooManyInstancesError(InputError):
    """A map has more instances than the style table has rows."""


class SchemaError(SceneLoomError, ValueError):
    """A label schema or a contract is not valid."""


class CheckpointError(SceneLoomError):
    """A checkpoint cannot be read, is unsafe, or does not fit the architecture."""


class TrainingError(SceneLoomError):
    """A training run cannot start or go on; its last checkpoint is as it was."""


class DivergedError(TrainingError):
    """A loss or a weight is no longer a finite number; nothing was saved since."""


class LostPeerError(TrainingError):
    """Another process of the run has ended, or is not reached."""


class ExportError(SceneLoomError):
    """A model cannot be exported."""


class GraphRuleError(ExportError):
    """The graph breaks a rule of the engines that are to run it."""


class ParityError(ExportError):
    """An engine's pictures differ from PyTorch's by more than the limit."""


class EngineError(SceneLoomError):
    """An engine cannot be built, loaded or run on this machine."""


class PlanRefusedError(EngineError):
    """A TensorRT plan is not what its record says, or not for this machine; it was not loaded."""


class OutOfResourcesError(SceneLoomError):
    """This machine has no memory, or no thread, left; later the same may succeed."""


class MissingDependencyError(SceneLoomError, ImportError):
    """An optional package is not installed; the text names the extra and the pip line."""


class ServerStartError(SceneLoomError):
    """The bundled server did not come up; the text says why."""


class ServingError(SceneLoomError):
    """A request was not answered with a picture."""

    retryable: ClassVar[bool] = False
    """True where sending the same request again later can succeed."""


class QueueFullError(ServingError):
    """The server's queue is full: back off, shrink the window, send again."""

    retryable = True


class QueueTimeoutError(ServingError):
    """The request waited in the server's queue for longer than the server allows."""

    retryable = True


class DeadlineExceededError(ServingError):
    """The client's own deadline passed; the work may still be running on the server."""

    retryable = True


class ServerUnavailableError(ServingError):
    """The server is not reachable, or it is starting or stopping."""

    retryable = True


class ConnectionClosedError(ServerUnavailableError):
    """The connection was closed on this side; it does not come back."""

    retryable = False


class ModelNotFoundError(ServingError):
    """The server has no model of this name, or none that this client can talk to."""


class RequestRejectedError(ServingError):
    """The server says that the request is wrong; the same request will fail again."""


class ModelFailedError(ServingError):
    """The model broke while it ran, or its process has died; readiness may still say true."""


def require(packages: Iterable[str], *, extra: str, purpose: str) -> None:
    """Check that the packages of an extra can be imported, without importing them.

    Args:
        packages: import names, such as ``("torch", "safetensors")``.
        extra: the extra of this distribution that installs them.
        purpose: what they are needed for, as the start of a sentence ("exporting a model").

    Raises:
        MissingDependencyError: one of them is not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"{purpose} needs {', '.join(missing)}, which is not installed: pip install "
            f"'sceneloom[{extra}]'"
        )


_MEMORY = re.compile(
    r"out of memory|not enough memory|insufficient memory|allocate memory|bad_?alloc"
    r"|alloc_failed|failed to allocate|outofmemory",
    re.IGNORECASE,
)
_THREADS = re.compile(
    r"can't start new thread|thread creation failed|resource temporarily unavailable"
    r"|pthread_create",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, on a GPU or beside it."""
    if isinstance(error, MemoryError):
        return True
    return bool(_MEMORY.search(f"{type(error).__name__} {error}"))


def out_of_resources(error: BaseException) -> OutOfResourcesError | None:
    """The error for one that says that the machine has not enough; None for all others."""
    if isinstance(error, OutOfResourcesError):
        return error
    if is_out_of_memory(error):
        return OutOfResourcesError(f"memory was not enough ({said(error)})")
    if isinstance(error, RuntimeError | OSError) and _THREADS.search(str(error)):
        return OutOfResourcesError(
            f"no further thread or process can be started ({said(error)}); the limit is that of "
            "ulimit -u, or of the container's pids"
        )
    return None


def said(error: BaseException) -> str:
    """The error's own words in one line, or the name of its kind."""
    return one_line(str(error)) or type(error).__name__
