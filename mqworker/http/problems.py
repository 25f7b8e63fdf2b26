"""What is wrong with a request, as a problem document (RFC 9457); translates every exception into one.

Pure; used by all of `mqworker.http`. A document never holds a secret, or a traceback of ours: an unexpected error is
logged, and the caller learns only that there was one.
"""

import logging
from http import HTTPStatus
from typing import Any

import msgspec
from flask import Response
from werkzeug.exceptions import HTTPException

from mqworker.control.errors import ChangeRefused, ControlError

CONTENT_TYPE = "application/problem+json"
KINDS = {  # of ControlError, which includes the broker admin's kinds
    "unknown_stage": 404,
    "unknown_job": 404,
    "unknown_message": 404,
    "unknown_slot": 404,
    "unknown_source": 404,
    "unknown_selection": 404,
    "unknown_operation": 404,
    "count": 409,
    "filter": 422,
    "busy": 503,
    "storage": 507,
    "deadline": 504,
    "draining": 503,
    "unavailable": 503,
    "refused": 409,
    "conflict": 412,
    "too_large": 413,
}
FULL = "full"  # the kind of a refusal before anything was begun; the command line tries again

log = logging.getLogger("mqworker.http")


class Problem(Exception):  # noqa: N818 - it is what RFC 9457 calls it
    """The answer to a request that failed. `fields`: (field, what is wrong); `more` is added to the document."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        fields: list[tuple[str, str]] | None = None,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        self.more = more
        if fields:
            self.more["fields"] = [{"field": field, "problem": message} for field, message in fields]
        super().__init__(detail)

    @property
    def title(self) -> str:
        """Return the status code's phrase, as the type `about:blank` requires."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return "Error"

    def document(self) -> bytes:
        """Return the JSON body."""
        fixed = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail}
        return msgspec.json.encode(fixed | self.more)

    def response(self) -> Response:
        """Return the HTTP response."""
        return Response(self.document(), self.status, self.headers, content_type=CONTENT_TYPE)


def retry_later(detail: str, seconds: int) -> Problem:
    """Return a 503 that asks the client to try again after `seconds`; nothing of the request was begun."""
    return Problem(503, detail, headers={"Retry-After": str(seconds)}, kind=FULL)


def problem_of(error: Exception) -> Problem:
    """Convert whatever a view raised into a Problem."""
    match error:
        case Problem():
            return error
        case ChangeRefused():
            detail = "; ".join(error.problems) or "the change was refused"
            problem = Problem(422, detail, fields=error.fields)
            if error.code:
                problem.more["kind"] = "code"
            return problem
        case ControlError() if error.kind in KINDS:
            status = KINDS[error.kind]
            headers = {"Retry-After": "5"} if status == 503 else None
            return Problem(status, str(error), headers=headers, kind=error.kind)  # the command line needs the kind
        case HTTPException() if error.code is not None:
            headers = {key: value for key, value in error.get_headers() if key == "Allow"}
            message = "there is no such path; see /api/v1/openapi.json" if error.code == 404 else error.description
            return Problem(error.code, message or "", headers=headers)
    log.error("a control request failed", exc_info=error, extra={"event": "http_failed"})
    return Problem(500, "an error inside mqworker; the log of the service has the details")
