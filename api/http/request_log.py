"""One log line per request: status, model, tokens, milliseconds. Never the content of requests or answers."""

from __future__ import annotations

import logging
import time
from typing import Any

from litestar.types import Scope

from corral.core.errors import CorralError
from corral.core.wording.clipping import clipped_line

__all__ = ("RequestLog", "request_log")

_log = logging.getLogger("corral.http")
_KEY = "corral.request_log"
_LONGEST_ERROR = 1000


class RequestLog:
    """What is known about a request so far. Routes fill in what only they know."""

    def __init__(self, scope: Scope) -> None:
        self.started_ns = time.monotonic_ns()
        self.method = str(scope.get("method", ""))
        self.path: str = scope["path"]
        self.status: int | None = None
        self.model: str | None = None
        self.prompt_tokens: int | None = None
        self.tokens: int | None = None
        self.error: str | None = None
        self.request_id: str | None = None
        scope["state"][_KEY] = self

    def failed(self, error: Exception, text: str) -> None:
        """Notes why the request failed: `text`, unless the error quotes what the client wrote, which is left out."""
        self.error = error.reason if isinstance(error, CorralError) and error.quoted else text

    def write(self) -> None:
        """Writes the line. The record also has the fields as `http`, for structured formatters."""
        status = self.status if self.status is not None else 499  # the client left before there was a response
        path = clipped_line(self.path)
        fields: dict[str, Any] = {"status": status, "method": self.method, "path": path}
        if self.model is not None:
            fields["model"] = clipped_line(self.model)
        if self.prompt_tokens is not None:
            fields["prompt_tokens"] = self.prompt_tokens
        if self.tokens is not None:
            fields["tokens"] = self.tokens
        if self.request_id is not None:
            fields["request_id"] = self.request_id
        if self.error is not None:
            fields["error"] = clipped_line(self.error, _LONGEST_ERROR)
        fields["ms"] = round((time.monotonic_ns() - self.started_ns) / 1e6, 1)
        words = [f"{status} {self.method} {path}"]
        words += [f"{name}={value}" for name, value in fields.items() if name not in ("status", "method", "path")]
        _log.log(logging.WARNING if status >= 500 else logging.INFO, "%s", " ".join(words), extra={"http": fields})


def request_log(scope: Scope) -> RequestLog:
    """The log of the request being served."""
    log = scope["state"].get(_KEY)
    return log if isinstance(log, RequestLog) else RequestLog(scope)
