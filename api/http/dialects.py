"""Dialects: the APIs that clients know, such as Ollama's, and how each of them answers errors and names its schemas.

The path of a request decides which dialect answers it, so that a client also understands errors that no route has
raised: an unknown path, a wrong method, a forbidden origin, a body that is too large.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from corral.api.http.errors import JSON, STATUSES, ApiError, ErrorReply, Headers
from corral.api.http.schemas import DocumentedSchema
from corral.core.containment import contained, short_line
from corral.core.errors import CorralError

__all__ = ("Dialect", "Dialects")

_log = logging.getLogger("corral.http")
_BREAKS = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
"""What would end a header, or cannot be sent in one."""

_HEADER = re.compile(r"[a-z0-9-]*")


class Dialect:
    """How one API answers errors. Subclasses set `name` and implement `body`; the rest has defaults.

    A plugin passes its own as ``Router(..., opt={"dialect": MyDialect()})``; it then applies to every path under the
    router's. `statuses` has the kinds of errors whose status differs from `STATUSES`. In ``/openapi.json``, schemas are
    named ``NAME.Struct``, unless `schemas` says otherwise; `components` are further schemas, by name; `error` is the
    struct of the envelope, for this document only.

    Two APIs may share a path: then a header tells whose client it is. `claims` maps the path to the header by which
    this dialect's clients are known there, in lower case; the other dialect has the path, and everybody else.

    Where `request_id_header` names a header, in lower case, every response has an id in it, which is in the log as
    well.
    """

    name: ClassVar[str]
    schemas: ClassVar[Mapping[type[Any], DocumentedSchema]] = MappingProxyType({})
    components: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    error: ClassVar[type[Any] | None] = None
    statuses: ClassVar[Mapping[type[CorralError], int]] = MappingProxyType({})
    claims: ClassVar[Mapping[str, str]] = MappingProxyType({})
    request_id_header: ClassVar[str] = ""

    def body(self, problem: ApiError) -> bytes:
        """The error as the bytes of a response, in this API's envelope."""
        raise NotImplementedError

    def text(self, error: CorralError) -> str:
        """What the client reads about an error of ours: its message, and its remedy if it has one."""
        return f"{error.message}; {error.remedy}" if error.remedy else error.message

    def problem(self, error: Exception) -> ApiError:
        """Status, text and code of any error, also for the end of a stream that has begun.

        An unforeseen error is logged and becomes a 500 that does not show its text.
        """
        if isinstance(error, ApiError):
            return error
        if not isinstance(error, CorralError):
            _log.error("unexpected error in a request", exc_info=error)
            return ApiError(500, "internal server error; the server's log has the details", code="internal_error")
        statuses = {**STATUSES, **self.statuses}
        status = next(statuses[kind] for kind in type(error).__mro__ if kind in statuses)
        return ApiError(status, self.text(error), code=error.code)

    def reply(self, error: Exception) -> ErrorReply:
        """The complete response to an error."""
        problem = self.problem(error)
        return ErrorReply(status=problem.status, body=self.body(problem), media_type=JSON, headers=problem.headers)

    def unknown_path(self) -> ErrorReply:
        """The response when no route has this path."""
        return self.reply(ApiError(404, "there is no such path", code="unknown_path"))

    def wrong_method(self) -> ErrorReply:
        """The response when the path has no route for this method."""
        return self.reply(ApiError(405, "this path does not support the request's method", code="wrong_method"))

    def forbidden(self) -> ErrorReply:
        """The response to a browser origin or host name that the server does not answer."""
        text = (
            "the server does not answer this origin or host name; server.origins (CORRAL_ORIGINS) allows the origins "
            "of pages, and a server that listens on more than loopback (server.host) answers all host names"
        )
        return self.reply(ApiError(403, text, code="forbidden"))


class Dialects:
    """The dialects of a server by path prefix; `default` has all other paths.

    A dialect may be a plugin's: if it fails to answer, or gives what cannot be sent, that is logged and the default
    one answers.
    """

    def __init__(self, default: Dialect) -> None:
        self.default = default
        self._by_prefix: dict[str, Dialect] = {}
        self._claims: dict[str, list[tuple[bytes, Dialect]]] = {}

    def add(self, prefix: str, dialect: Dialect) -> None:
        """Let `dialect` answer for `prefix` and everything below it, and for what it claims elsewhere.

        Raises `ValueError` if the prefix is taken, or a header has no valid name.
        """
        prefix = prefix.rstrip("/")
        if not prefix or prefix in self._by_prefix:
            raise ValueError(f"the paths under {prefix or '/'} already have a dialect")
        if not _HEADER.fullmatch(dialect.request_id_header):
            raise ValueError(f"not the name of a header in lower case: {dialect.request_id_header!r}")
        claims = {shared.rstrip("/"): header.lower().encode("latin-1") for shared, header in dialect.claims.items()}
        self._by_prefix[prefix] = dialect
        for shared, header in claims.items():
            self._claims.setdefault(shared, []).append((header, dialect))

    def of(self, path: str, headers: Headers = ()) -> Dialect:
        """The dialect of a request; the longest prefix wins, and before it whoever claims the path by a header."""
        given: frozenset[bytes] | None = None
        while path:
            if path in self._claims:
                given = frozenset([name for name, _ in headers]) if given is None else given
                for header, dialect in self._claims[path]:
                    if header in given:
                        return dialect
            if (found := self._by_prefix.get(path)) is not None:
                return found
            path = path.rpartition("/")[0]
        return self.default

    def reply(self, path: str, headers: Headers, error: Exception) -> ErrorReply:
        """The response to an error of a request to `path` with these headers."""
        return self._answer(path, headers, lambda dialect: dialect.reply(error))

    def unknown_path(self, path: str, headers: Headers) -> ErrorReply:
        return self._answer(path, headers, lambda dialect: dialect.unknown_path())

    def wrong_method(self, path: str, headers: Headers) -> ErrorReply:
        return self._answer(path, headers, lambda dialect: dialect.wrong_method())

    def forbidden(self, path: str, headers: Headers) -> ErrorReply:
        return self._answer(path, headers, lambda dialect: dialect.forbidden())

    def _answer(self, path: str, headers: Headers, answer: Callable[[Dialect], ErrorReply]) -> ErrorReply:
        dialect = self.of(path, headers)
        if dialect is not self.default:
            try:
                return _sendable(contained(answer, dialect))
            except Exception as fault:
                said = f"{type(fault).__name__}: {short_line(fault)}"
                _log.error("the dialect of %s cannot answer an error: %s", path, said, exc_info=fault)
        return answer(self.default)


def _sendable(reply: object) -> ErrorReply:
    """What a plugin's dialect gave. Raises `TypeError` if it cannot be sent as an error."""
    if (
        isinstance(reply, ErrorReply)
        and isinstance(reply.body, bytes)
        and isinstance(reply.media_type, str | None)
        and isinstance(reply.status, int)
        and 400 <= reply.status <= 599
        and all(isinstance(text, str) and not _BREAKS.search(text) for field in reply.headers.items() for text in field)
    ):
        return reply
    raise TypeError(f"it gave {short_line(repr(reply), 120)}, which cannot be sent as an error")
