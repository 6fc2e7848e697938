"""Errors as problem documents (RFC 9457): the one map from the error family to HTTP statuses."""

from __future__ import annotations

import math
from http import HTTPStatus

from fastapi.responses import JSONResponse

from sceneloom import errors

MEDIA_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[errors.SceneLoomError], int], ...] = (
    (errors.ImageTooLargeError, 413),
    (errors.InputError, 422),
    (errors.SchemaError, 422),
    (errors.DeadlineExceededError, 504),
    (errors.QueueFullError, 503),
    (errors.QueueTimeoutError, 503),
    (errors.ServerUnavailableError, 503),
    (errors.OutOfResourcesError, 503),
    (errors.ServingError, 502),  # the model is missing, has failed, or refuses a checked request
)
"""The first class that fits gives the status."""
_WAIT = 1.0


class Problem(Exception):
    """An answer other than the requested one."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str = "",
        field: str = "",
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Keep the parts of the document.

        Args:
            status: the HTTP status.
            detail: one sentence: the reason and the nearest valid choice.
            kind: name of the error's class; by default that of the status.
            field: the form field or parameter at fault.
            retry_after: seconds after which the same request may succeed.
            headers: further headers of the answer.
        """
        super().__init__(detail)
        self.status, self.detail, self.kind, self.field = status, detail, kind, field
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))

    def response(self, request_id: str) -> JSONResponse:
        """The problem document."""
        title = HTTPStatus(self.status).phrase
        document = {
            "type": f"urn:sceneloom:{self.kind}" if self.kind else "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            **({"field": self.field} if self.field else {}),
            "request_id": request_id,
        }
        return JSONResponse(
            document, status_code=self.status, media_type=MEDIA_TYPE, headers=self.headers
        )


def problem_of(error: errors.SceneLoomError, field: str = "") -> Problem:
    """The problem of an error of the family; `field` is the form field that it is about."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return Problem(
        status,
        str(error),
        kind=type(error).__name__,
        field=field,
        retry_after=_WAIT if status == 503 else None,
    )
