"""Every error that SceneLoom raises on purpose, in one family.

    SceneLoomError
    ├── InputError (also ValueError)
    │   ├── ImageReadError, ImageTooLargeError, NotALabelMapError, UnknownLabelError
    │   └── SizeError, DataSetError, MissingInputError, TooManyInstancesError
    ├── SchemaError (also ValueError)
    ├── CheckpointError
    ├── TrainingError: DivergedError, LostPeerError
    ├── ExportError: GraphRuleError, ParityError
    ├── EngineError: PlanRefusedError
    ├── OutOfResourcesError
    ├── MissingDependencyError (also ImportError)
    ├── ServerStartError
    └── ServingError
        ├── retryable: QueueFullError, QueueTimeoutError, DeadlineExceededError,
        │   ServerUnavailableError (but not its ConnectionClosedError)
        └── ModelNotFoundError, RequestRejectedError, ModelFailedError

Foreign errors are mapped to this family in one place each: decoders of maps in `sceneloom.maps`, of
pictures in `sceneloom.pictures`; Triton's answers, over gRPC and HTTP, in
`sceneloom.triton.transport`, a gateway's in `sceneloom.triton.gateway_transport`. Places that
cannot be read or written are OSErrors, remote ones too (`sceneloom.locations`).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from typing import ClassVar

from sceneloom.text import one_line


class SceneLoomError(Exception):
    """Base of the family; its text is one sentence for the user."""


class InputError(SceneLoomError, ValueError):
    """An input of the user does not fit; nothing was sent to a server. Never retry."""


class ImageReadError(InputError):
    """A file cannot be read or decoded: missing, empty, truncated, damaged or unknown."""


class ImageTooLargeError(InputError):
    """An image has more pixels than the limit; they were not decoded."""


class NotALabelMapError(InputError):
    """A colour picture or a lossy format stands in place of class or instance ids."""


class UnknownLabelError(InputError):
    """A label map holds ids that the schema does not have.

    Args:
        message: the sentence for the user.
        counts: unknown file value, or colour (red, green, blue, alpha unless 255) -> pixels.
    """

    def __init__(self, message: str, counts: dict[int, int] | dict[tuple[int, ...], int]) -> None:
        super().__init__(message)
        self.counts = counts


class SizeError(InputError):
    """Two maps of one picture differ in size, or the model does not take this size."""


class DataSetError(InputError):
    """A data set's folder has another layout than its publisher's."""


class MissingInputError(InputError):
    """The model needs an input (instance map, style) that is missing."""


class TooManyInstancesError(InputError):
    """A map has more instances than the style table has rows."""


class SchemaError(SceneLoomError, ValueError):
    """A label schema or a contract is not valid."""


class CheckpointError(SceneLoomError):
    """A checkpoint cannot be read, is unsafe, or does not fit the architecture."""


class TrainingError(SceneLoomError):
    """A training run cannot start or continue; its last checkpoint is unchanged."""


class DivergedError(TrainingError):
    """A loss or a weight is no longer a finite number; nothing was saved since."""


class LostPeerError(TrainingError):
    """Another process of the run has ended or cannot be reached."""


class ExportError(SceneLoomError):
    """A model cannot be exported."""


class GraphRuleError(ExportError):
    """The graph breaks a rule of its engines."""


class ParityError(ExportError):
    """An engine's pictures differ from PyTorch's by more than the limit."""


class EngineError(SceneLoomError):
    """An engine cannot be built, loaded or run on this machine."""


class PlanRefusedError(EngineError):
    """A TensorRT plan, or a package of AOTInductor, differs from its record, or is for another
    machine; it was not loaded.
    """


class OutOfResourcesError(SceneLoomError):
    """This machine has no memory or no thread left; the same may succeed later."""


class MissingDependencyError(SceneLoomError, ImportError):
    """An optional package is not installed; the text names the extra and the pip line."""


class ServerStartError(SceneLoomError):
    """The bundled server did not come up."""


class ServingError(SceneLoomError):
    """A request got no picture."""

    retryable: ClassVar[bool] = False
    """Whether the same request can succeed later."""
    retry_after = 0.0
    """Seconds that the server wants to be left alone for; 0 if it names none."""


class QueueFullError(ServingError):
    """The server's queue is full: back off, shrink the window, send again."""

    retryable = True


class QueueTimeoutError(ServingError):
    """The request waited in the server's queue for longer than the server allows."""

    retryable = True


class DeadlineExceededError(ServingError):
    """The client's own deadline passed; the server may still be at work."""

    retryable = True


class ServerUnavailableError(ServingError):
    """The server is not reachable, or it is starting or stopping."""

    retryable = True


class ConnectionClosedError(ServerUnavailableError):
    """The connection was closed on this side; it does not come back."""

    retryable = False


class ModelNotFoundError(ServingError):
    """The server has no model of this name, or none that fits this client."""


class RequestRejectedError(ServingError):
    """The server finds the request wrong; the same request will fail again."""


class ModelFailedError(ServingError):
    """The model broke while it ran, or its process has died; readiness may still say true."""


def require(packages: Iterable[str], *, extra: str, purpose: str) -> None:
    """Check, without importing them, that packages of an extra are installed.

    `purpose` is the subject of the sentence, such as "exporting a model". Raises
    MissingDependencyError if a package is missing.
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
    """Whether memory ran out, on a GPU or beside it."""
    if isinstance(error, MemoryError):
        return True
    return bool(_MEMORY.search(f"{type(error).__name__} {error}"))


def out_of_resources(error: BaseException) -> OutOfResourcesError | None:
    """The same error as OutOfResourcesError if this machine has not enough, else None."""
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
