"""Models that are files on web servers: ``https://HOST/PATH/FILE.gguf``, and ``http://`` on this machine.

Of weights in several parts, the address of one stands for all."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

from corral.adapters.sources.web_addresses import parse_web_address, with_siblings
from corral.adapters.sources.web_files import WebFile, open_exchange, probed, read_web_file
from corral.adapters.sources.web_settings import WebSourceSettings
from corral.core.errors import InvalidRequest, SourceError
from corral.core.ports.sources import FetchProgress, OnProgress, RemoteFile, SourceModel

__all__ = ("WebSource", "http_source", "https_source")


class WebSource:
    """The `ModelSource` of one of the schemes ``https`` and ``http``. `environment` says where logins are."""

    def __init__(
        self, scheme: str, settings: WebSourceSettings | None = None, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._scheme = scheme
        self._settings = settings or WebSourceSettings()
        self._environment = environment

    @property
    def scheme(self) -> str:
        return self._scheme

    def resolve(self, reference: str, on_progress: OnProgress) -> AbstractAsyncContextManager[SourceModel]:
        return self._resolve(reference, on_progress)

    @asynccontextmanager
    async def _resolve(self, reference: str, on_progress: OnProgress) -> AsyncIterator[SourceModel]:
        if not reference.startswith(f"{self._scheme}://"):
            raise InvalidRequest(f"not an address: {reference[:200]!r}", f"it begins with {self._scheme}://")
        address = parse_web_address(reference, insecure=self._settings.insecure)
        on_progress(FetchProgress(status=f"pulling {address.shown}"))
        async with open_exchange(self._settings, f"sources.{self._scheme}", environment=self._environment) as exchange:
            files = [
                await probed(exchange, one.place, one.url, what=one.shown, file_name=one.file_name, digest=one.digest)
                for one in with_siblings(address)
            ]
            yield SourceModel(reference=reference, files=tuple(files))

    async def fetch(self, file: RemoteFile, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        if not isinstance(file, WebFile):
            raise SourceError(f"{file.file_name} was not resolved by {self._scheme}://")
        async with aclosing(read_web_file(file, start, end)) as chunks:
            async for chunk in chunks:
                yield chunk


def https_source(settings: WebSourceSettings | None = None) -> WebSource:
    return WebSource("https", settings)


def http_source(settings: WebSourceSettings | None = None) -> WebSource:
    return WebSource("http", settings)
