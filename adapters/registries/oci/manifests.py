"""Reads, finds and publishes manifests; an index is resolved to the manifest of a model in it."""

from __future__ import annotations

import msgspec

from corral.adapters.registries.oci.addressing import Place
from corral.adapters.registries.oci.connection_pool import Response
from corral.adapters.registries.oci.exchange import RegistryExchange, pull_scope, push_scope
from corral.adapters.registries.oci.header_values import stated_number
from corral.core.errors import DigestMismatch, InvalidDigest, NotFound, SourceError, Unsupported
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, digest_of, parse_digest
from corral.core.models.references import Reference
from corral.core.ports.registries import RemoteManifest
from corral.core.values import Value

__all__ = ("ManifestHead", "Manifests")

_DOCKER, _OCI = "application/vnd.docker.distribution.manifest", "application/vnd.oci.image"
_INDEXES = (f"{_DOCKER}.list.v2+json", f"{_OCI}.index.v1+json")
_TYPES = (f"{_DOCKER}.v2+json", f"{_OCI}.manifest.v1+json", *_INDEXES)
_MOST_BYTES = 8 * 1024 * 1024
_DEPTH = 3
_DIGEST_HEADER = "docker-content-digest"


class ManifestHead(Value, frozen=True, kw_only=True):
    """What a registry says of a manifest without sending it. `size_bytes` is -1 if it does not say."""

    digest: Digest
    media_type: str
    size_bytes: int


class _Platform(msgspec.Struct):
    os: str = ""


class _Entry(msgspec.Struct):
    digest: str
    artifactType: str = ""  # the name in the index
    platform: _Platform | None = None


class _Head(msgspec.Struct):
    mediaType: str = ""
    manifests: list[_Entry] | None = None


class Manifests:
    def __init__(self, exchange: RegistryExchange) -> None:
        self._exchange = exchange

    async def get(self, place: Place, reference: Reference) -> RemoteManifest:
        """As `Registry.manifest`."""
        found = await self._get(place, reference.digest or reference.tag)
        index: bytes | None = None
        for _ in range(_DEPTH):
            chosen = _chosen(found, place)
            if chosen is None:
                return found if index is None else msgspec.structs.replace(found, index=index)
            index = index or found.data
            found = await self._get(place, chosen)
        raise SourceError(f"{_shown(place, reference)} is an index of indexes of indexes", "name a manifest in it")

    async def head(self, place: Place, reference: Reference) -> ManifestHead | None:
        """None if there is no such manifest."""
        answer = await self._ask("HEAD", place, reference.digest or reference.tag)
        try:
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise await self._exchange.refused(answer, place, _shown(place, reference))
            stated = _stated_digest(answer, place)
            if stated is None:  # older registries leave it out
                data = (await self._get(place, reference.digest or reference.tag)).data
                stated = digest_of(data)
            size_bytes = stated_number(answer.headers.get("content-length"))
            return ManifestHead(
                digest=stated, media_type=_bare_type(answer), size_bytes=-1 if size_bytes is None else size_bytes
            )
        finally:
            await answer.aclose()

    async def put(self, place: Place, reference: Reference, data: bytes, media_type: str) -> Digest:
        """As `Registry.put`."""
        digest = digest_of(data)
        if reference.digest not in (None, digest):
            raise DigestMismatch(f'digest mismatch, expected "{reference.digest}", got "{digest}"')
        answer = await self._exchange.send(
            place,
            "PUT",
            f"/v2/{place.repository}/manifests/{reference.tag}",
            (push_scope(place),),
            headers={"content-type": media_type},
            body=data,
            size_bytes=len(data),
        )
        if answer.status not in (200, 201, 202):
            error = await self._exchange.refused(answer, place, _shown(place, reference))
            if isinstance(error, NotFound):  # not the manifest, but what it names
                raise SourceError(f"404: {error.remedy}", "push its blobs first") from error
            raise error
        await answer.aclose()
        stated = _stated_digest(answer, place)
        if stated not in (None, digest):
            raise DigestMismatch(f'{place.host} has published another manifest: "{stated}" instead of "{digest}"')
        return digest

    async def delete(self, place: Place, reference: Reference) -> None:
        """Deletes the manifest with the reference's digest, or else its tag.

        Raises `NotFound`, and `Unsupported` if the registry deletes nothing, or no tags.
        """
        answer = await self._exchange.send(
            place,
            "DELETE",
            f"/v2/{place.repository}/manifests/{reference.digest or reference.tag}",
            (f"repository:{place.repository}:pull,push,delete",),
        )
        if answer.status in (400, 405, 501) and (answer.status != 400 or reference.digest is None):
            await answer.aclose()
            what = "manifests" if reference.digest else "tags"
            raise Unsupported(f"{place.host} does not delete {what}", "whoever runs it can allow that")
        if answer.status not in (200, 202, 204):
            raise await self._exchange.refused(answer, place, _shown(place, reference))
        await answer.aclose()

    async def _ask(self, method: str, place: Place, wanted: str) -> Response:
        return await self._exchange.send(
            place,
            method,
            f"/v2/{place.repository}/manifests/{wanted}",
            (pull_scope(place),),
            headers={"accept": ", ".join(_TYPES)},
            follow=True,
        )

    async def _get(self, place: Place, wanted: str) -> RemoteManifest:
        answer = await self._ask("GET", place, wanted)
        try:
            if answer.status != 200:
                what = f"'{place.host}/{place.repository}{'@' if wanted.startswith('sha256:') else ':'}{wanted}'"
                raise await self._exchange.refused(answer, place, what)
            data = await answer.beginning(_MOST_BYTES + 1)
        finally:
            await answer.aclose()
        if len(data) > _MOST_BYTES:
            raise SourceError(f"the manifest from {place.host} is longer than {_MOST_BYTES} bytes")
        found = digest_of(data)
        expected = wanted if wanted.startswith("sha256:") else _stated_digest(answer, place)
        if expected not in (None, found):
            raise DigestMismatch(f'digest mismatch of the manifest from {place.host}, want "{expected}", got "{found}"')
        media_type = _bare_type(answer)
        return RemoteManifest(data=data, media_type=media_type if media_type in _TYPES else _head(data).mediaType)


def _stated_digest(answer: Response, place: Place) -> Digest | None:
    """None if the registry does not say, or speaks of another algorithm. Raises `SourceError`."""
    stated = answer.headers.get(_DIGEST_HEADER, "")
    return _parsed(stated, place) if stated.startswith("sha256:") else None


def _parsed(digest: str, place: Place) -> Digest:
    """A malformed digest is the registry's fault, not that of whoever asked for a model."""
    try:
        return parse_digest(digest)
    except InvalidDigest as fault:
        raise SourceError(f"{place.host} names a manifest with an {fault.message}") from fault


def _bare_type(answer: Response) -> str:
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


def _head(data: bytes) -> _Head:
    try:
        return msgspec.json.decode(data, type=_Head)
    except MALFORMED:
        return _Head()


def _chosen(found: RemoteManifest, place: Place) -> Digest | None:
    """The entry of an index to go on with; None if this is no index.

    One that says it is a model, or else one for no platform, or else the first. Attestations are no models.
    """
    head = _head(found.data)
    if head.manifests is None or (found.media_type not in _INDEXES and head.mediaType not in _INDEXES):
        return None
    models = [one for one in head.manifests if (one.platform or _Platform()).os != "unknown"]
    models.sort(key=lambda one: ("model" not in one.artifactType, one.platform is not None))
    if not models:
        raise SourceError(f"the index from {place.host} names no model")
    return _parsed(models[0].digest, place)


def _shown(place: Place, reference: Reference) -> str:
    digest = f"@{reference.digest}" if reference.digest else f":{reference.tag}"
    return f"'{place.host}/{place.repository}{digest}'"
