"""Asks Hugging Face's hub, or a mirror of it, for the files of a repository.

The interface is the one of the hub's own client: ``/api/models/REPO/revision/REVISION``, ``/api/models/REPO/tree/…``,
``/REPO/resolve/…``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import quote, urljoin, urlsplit

import msgspec
from msgspec import Meta

from corral.adapters.registries.oci.addressing import Place, host_place
from corral.adapters.registries.oci.exchange import RegistryExchange
from corral.adapters.registries.oci.header_values import next_link
from corral.adapters.registries.oci.logins import Logins
from corral.adapters.sources.hugging_face_choice import RepositoryFile
from corral.adapters.sources.web_addresses import server_place
from corral.adapters.sources.web_files import refused
from corral.adapters.sources.web_settings import HuggingFaceSettings
from corral.core.errors import InvalidDigest, InvalidRequest, SourceError
from corral.core.malformed import MALFORMED
from corral.core.models.digests import parse_digest
from corral.core.models.references import HUGGING_FACE
from corral.core.values import Value

__all__ = ("Hub", "HubAuthorizing", "Revision", "hub_place")

_MOST_BYTES = 8 * 1024 * 1024
_MOST_PAGES = 50
_COMMIT = re.compile(r"[0-9a-f]{40}")


class _Info(msgspec.Struct):
    sha: str


class _Lfs(msgspec.Struct):
    oid: str


class _Entry(msgspec.Struct):
    type: str
    path: str
    size: Annotated[int, Meta(ge=0)] = 0
    lfs: _Lfs | None = None


class Revision(Value, frozen=True, kw_only=True):
    """A repository at one commit, whose files never change."""

    repository: str
    commit: str


class HubAuthorizing:
    """Shows the token of Hugging Face's user, if there is one. It is looked for once."""

    def __init__(self, logins: Logins) -> None:
        self._logins = logins
        self._shown: str | None = None
        self._looked = False

    async def known(self, place: Place, base: str, scopes: tuple[str, ...]) -> str | None:
        if not self._looked:
            login = await self._logins.find(host_place(HUGGING_FACE))
            self._shown = None if login is None else f"Bearer {login.secret}"
            self._looked = True
        return self._shown

    async def demanded(
        self, place: Place, base: str, scopes: tuple[str, ...], headers: Iterable[str], refused: str | None
    ) -> str | None:
        return None


def hub_place(settings: HuggingFaceSettings, environment: Mapping[str, str]) -> tuple[str, Place]:
    """The hub's address, and the server that has it. Raises `InvalidRequest` for an address that cannot be used."""
    usual = host_place(HUGGING_FACE)
    endpoint = (settings.endpoint or environment.get("HF_ENDPOINT", "")).strip().rstrip("/")
    if not endpoint:
        return f"https://{usual.authority}", usual
    try:
        parts = urlsplit(endpoint)
    except ValueError as fault:
        remedy = "correct HF_ENDPOINT, or sources.hf.endpoint"
        raise InvalidRequest(f"not an address: {endpoint[:200]!r}", remedy) from fault
    return endpoint, server_place(parts, settings.insecure, "sources.hf")


class Hub:
    def __init__(self, exchange: RegistryExchange, endpoint: str, place: Place) -> None:
        self._exchange = exchange
        self._endpoint = endpoint
        self._place = place

    async def revision(self, repository: str, revision: str) -> Revision:
        """What a branch, a tag or a commit is now. Raises `SourceError` if there is none."""
        where = f"{repository}{'' if revision == 'main' else f'@{revision}'}"
        url = f"{self._endpoint}/api/models/{repository}/revision/{quote(revision, safe='')}"
        info, _ = await self._json(url, where, _Info)
        if not _COMMIT.fullmatch(info.sha):
            raise SourceError(f"{self._place.host} does not say which commit {where} is")
        return Revision(repository=repository, commit=info.sha)

    async def files(self, revision: Revision) -> tuple[RepositoryFile, ...]:
        """All files of the repository, without the folders."""
        url = f"{self._endpoint}/api/models/{revision.repository}/tree/{revision.commit}?recursive=true"
        found: list[RepositoryFile] = []
        for _ in range(_MOST_PAGES):
            entries, link = await self._json(url, revision.repository, list[_Entry])
            found += [self._file(entry) for entry in entries if entry.type == "file"]
            following = next_link(link)
            if following is None:
                return tuple(found)
            url = urljoin(url, following)
        raise SourceError(f"{revision.repository} has too many files", "name a smaller repository")

    def address(self, revision: Revision, path: str) -> str:
        return f"{self._endpoint}/{revision.repository}/resolve/{revision.commit}/{quote(path)}"

    def _file(self, entry: _Entry) -> RepositoryFile:
        try:
            digest = parse_digest(f"sha256:{entry.lfs.oid}") if entry.lfs else None
        except InvalidDigest as fault:
            raise SourceError(f"{self._place.host} gives no digest for {entry.path!r}: {fault.message}") from fault
        return RepositoryFile(path=entry.path, size_bytes=entry.size, digest=digest)

    async def _json(self, url: str, what: str, kind: Any) -> tuple[Any, str]:
        answer = await self._exchange.send(self._place, "GET", url, (), follow=True)
        try:
            if answer.status != 200:
                raise await refused(self._exchange, answer, self._place, what)
            data = await answer.beginning(_MOST_BYTES)
            link = ", ".join(answer.header_values("link"))
        finally:
            await answer.aclose()
        try:
            return msgspec.json.decode(data, type=kind), link
        except MALFORMED as fault:
            raise SourceError(f"{self._place.host} answered something else than it should: {fault}") from fault
