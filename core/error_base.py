"""The base of all errors that Corral raises on purpose, and an error as data."""

from __future__ import annotations

from typing import ClassVar

from corral.core.values import Value

__all__ = ("CorralError", "ErrorInfo")


class ErrorInfo(Value, frozen=True, kw_only=True):
    """An error as data: `code` names the class, `message` the offending value, `remedy` what to do next. `quoted` is
    what the message repeats of a request, or may repeat: logs leave it out.
    """

    code: str
    message: str
    remedy: str | None = None
    quoted: str | None = None


class CorralError(Exception):
    """Base of all errors raised on purpose. ``str(error)`` is the message; `remedy` says what to do, if known. It is a
    note of the exception as well, so that tracebacks show it. `quoted` is the part of the message that repeats what a
    client wrote, and may be part of a prompt: it is for the client, and `reason`, for logs, leaves it out.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, remedy: str | None = None, *, quoted: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.quoted = quoted
        if remedy:
            self.add_note(remedy)

    @property
    def info(self) -> ErrorInfo:
        return ErrorInfo(code=self.code, message=self.message, remedy=self.remedy, quoted=self.quoted)

    @property
    def reason(self) -> str:
        """The message without what it quotes."""
        return self.message.replace(self.quoted, "…") if self.quoted else self.message
