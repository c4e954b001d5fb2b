"""Files on HTTP servers: how large they are, and their bytes from anywhere, always of one version."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

from corral.adapters.registries.oci.addressing import Place
from corral.adapters.registries.oci.authorizing import Authorizer
from corral.adapters.registries.oci.connection_pool import ConnectionPool, Response
from corral.adapters.registries.oci.exchange import Authorizing, RegistryExchange
from corral.adapters.registries.oci.logins import Logins
from corral.adapters.registries.oci.ollama_key import OllamaKey
from corral.adapters.registries.oci.ranged_bodies import body_size_bytes, ranged_body
from corral.adapters.registries.oci.token_requests import TokenServer
from corral.adapters.sources.web_settings import WebSourceSettings
from corral.core.errors import NotFound, SourceError
from corral.core.models.digests import Digest
from corral.core.ports.sources import RemoteFile

__all__ = ("WebFile", "open_exchange", "probed", "read_web_file", "refused")

_FETCHED = (200, 206)
_PAGE = re.compile(r"text/html\b", re.IGNORECASE)


class WebFile(RemoteFile, frozen=True, kw_only=True):
    """A file at an address; `what` is how messages call it.

    `etag` and `modified` are the server's marks of its version, empty if it gives none; what is at an address that
    `is_pinned` never changes.
    """

    exchange: RegistryExchange
    place: Place
    url: str
    what: str
    etag: str = ""
    modified: str = ""
    is_pinned: bool = False


@asynccontextmanager
async def open_exchange(
    settings: WebSourceSettings,
    section: str,
    authorizing: Authorizing | None = None,
    environment: Mapping[str, str] = os.environ,
) -> AsyncIterator[RegistryExchange]:
    """Connections to servers, while the context lasts. A login is shown to the server that demands one.

    `section` is where a user finds the settings. With `authorizing`, it decides what is shown.
    """
    stated = settings.for_connections()
    connections = ConnectionPool(stated, section)
    if authorizing is None:
        tokens = TokenServer(connections, OllamaKey(stated.ollama_key))
        authorizing = Authorizer(tokens, Logins(stated, environment))
    try:
        yield RegistryExchange(connections, authorizing, stated.insecure)
    finally:
        await connections.aclose()


async def probed(
    exchange: RegistryExchange, place: Place, url: str, *, what: str, file_name: str, digest: Digest | None
) -> WebFile:
    """The file at `url`, after one request for its first byte. Raises `SourceError` if there is no file."""
    answer = await exchange.send(place, "GET", url, (), headers={"range": "bytes=0-0"}, follow=True)
    try:
        if answer.status not in _FETCHED:
            raise await refused(exchange, answer, place, what)
        if _PAGE.match(answer.headers.get("content-type", "")):
            raise SourceError(f"{what} is a web page, not a model file", "give the address of the file itself")
        return WebFile(
            file_name=file_name,
            size_bytes=body_size_bytes(answer),
            digest=digest,
            exchange=exchange,
            place=place,
            url=url,
            what=what,
            etag=answer.headers.get("etag", ""),
            modified=answer.headers.get("last-modified", ""),
            in_parts=answer.status == 206 and (digest is not None or _has_mark(answer)),
        )
    finally:
        await answer.aclose()


def _has_mark(answer: Response) -> bool:
    return bool(answer.headers.get("etag") or answer.headers.get("last-modified"))


async def read_web_file(file: WebFile, start: int, end: int | None = None) -> AsyncGenerator[bytes, None]:
    """The bytes from `start` up to but without `end`, in chunks of at most 1 MiB.

    Raises `SourceError`, also if the file has changed, and `RangesIgnored` for a part of a file that comes whole.
    """
    if start and file.digest is None and not (file.etag or file.modified or file.is_pinned):
        raise SourceError(
            f"{file.what} cannot be resumed: {file.place.host} does not tell its versions apart",
            "pull it again, with #sha256=DIGEST behind the address if the digest is known",
        )
    headers = {"range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
    answer = await file.exchange.send(file.place, "GET", file.url, (), headers=headers, follow=True)
    try:
        if answer.status not in _FETCHED and (answer.status != 416 or start == 0):
            raise await refused(file.exchange, answer, file.place, file.what)
        _check_version(file, answer)
        # Of a server that knows no ranges, the beginning is skipped; for a part that would be too much.
        skipped = start if answer.status == 200 and end is None else 0
        async with aclosing(ranged_body(answer, file.place.host, file.what, start - skipped, end)) as chunks:
            async for chunk in chunks:
                rest, skipped = chunk[skipped:], max(0, skipped - len(chunk))
                if rest:
                    yield rest
    finally:
        await answer.aclose()


def _check_version(file: WebFile, answer: Response) -> None:
    size_bytes = body_size_bytes(answer)
    found = (
        (file.etag, answer.headers.get("etag", "")),
        (file.modified, answer.headers.get("last-modified", "")),
        (file.size_bytes, size_bytes),
    )
    if any(before and now and before != now for before, now in found):
        raise SourceError(f"{file.what} has changed while it was being fetched", "pull it again")


async def refused(exchange: RegistryExchange, answer: Response, place: Place, what: str) -> SourceError:
    """The error for an answer that is not the file; `SourceError` also if there is none. Closes the answer."""
    error = await exchange.refused(answer, place, what)
    if isinstance(error, NotFound):
        return SourceError(f"there is no {what}", error.remedy)
    return error if isinstance(error, SourceError) else SourceError(error.message, error.remedy)
