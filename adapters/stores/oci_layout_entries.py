"""Which entries of an OCI image index are models, under which names, and how Corral writes such an entry."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from corral.core.errors import InvalidDigest, InvalidName, StorageError
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, digest_of, parse_digest
from corral.core.models.names import ModelName, parse_name
from corral.core.values import Value

__all__ = ("REF_NAME", "IndexEntry", "LayoutModel", "model_of", "written_entry")

REF_NAME: Final = "org.opencontainers.image.ref.name"
_STORED: Final = "corral.model.stored"
"""The annotation of what Corral stored; its value is the time."""

_OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_MANIFESTS: Final = (_OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MODELS: Final = ("application/vnd.ollama.image.", "application/vnd.cncf.model.", "application/vnd.docker.ai.")
"""What the media types of models begin with: how a model is known that another tool put into the layout."""


class IndexEntry(msgspec.Struct, frozen=True, rename="camel"):
    """A descriptor in an index, as far as it matters here."""

    media_type: str = ""
    digest: str = ""
    annotations: dict[str, str] | None = None

    @property
    def is_manifest(self) -> bool:
        """Of one image; an index of several images is none."""
        return self.media_type in _MANIFESTS

    @property
    def names_blobs(self) -> bool:
        return self.is_manifest or self.media_type in _INDEXES

    @property
    def parsed_digest(self) -> Digest | None:
        """None for a digest by another algorithm, whose blobs are not in ``blobs/sha256``."""
        try:
            return parse_digest(self.digest)
        except InvalidDigest:
            return None

    @property
    def name(self) -> ModelName | None:
        """The name of a model that the entry's reference spells; None if it spells none."""
        try:
            return parse_name(self.annotation(REF_NAME))
        except InvalidName:
            return None

    def annotation(self, key: str) -> str:
        """Empty if there is none."""
        return (self.annotations or {}).get(key, "")


class LayoutModel(Value, frozen=True, kw_only=True):
    """A model in the index. `modified_at` is None if the entry does not say: then it is that of the manifest's file."""

    name: ModelName
    digest: Digest
    modified_at: float | None


class _Typed(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""
    artifact_type: str = ""
    config: _Typed | None = None
    layers: list[_Typed] | None = None


def model_of(entry: IndexEntry, manifest: Callable[[Digest], bytes | None]) -> LayoutModel | None:
    """The model that an entry stands for; None for anything else, such as the image of a container.

    `manifest` gets the bytes of a manifest, if they are there. Blocking.
    """
    name, digest = entry.name, entry.parsed_digest
    if name is None or digest is None or not entry.is_manifest:
        return None
    stored = entry.annotation(_STORED)
    if stored:
        return LayoutModel(name=name, digest=digest, modified_at=_seconds(stored))
    try:
        data = manifest(digest)
    except StorageError:
        return None
    if data is None or not _is_model(_decoded(data)):
        return None
    return LayoutModel(name=name, digest=digest, modified_at=None)


def written_entry(name: ModelName, data: bytes, now_s: float) -> tuple[msgspec.Raw, LayoutModel]:
    """The entry for a manifest that is stored at `now_s`, and what `model_of` makes of it."""
    found = _decoded(data)
    stored = datetime.fromtimestamp(now_s, UTC).isoformat()
    descriptor = {
        "mediaType": found.media_type if found.media_type in _MANIFESTS else _OCI_MANIFEST,
        "digest": digest_of(data),
        "size": len(data),
        "annotations": {REF_NAME: name.full, _STORED: stored},
    }
    if found.artifact_type:
        descriptor["artifactType"] = found.artifact_type
    model = LayoutModel(name=name, digest=digest_of(data), modified_at=_seconds(stored))
    return msgspec.Raw(msgspec.json.encode(descriptor)), model


def _decoded(manifest: bytes) -> _Manifest:
    try:
        return msgspec.json.decode(manifest, type=_Manifest)
    except MALFORMED:
        return _Manifest()


def _is_model(manifest: _Manifest) -> bool:
    parts = (manifest.config or _Typed(), *(manifest.layers or ()))
    return any(kind.startswith(_MODELS) for kind in (manifest.artifact_type, *(part.media_type for part in parts)))


def _seconds(text: str) -> float | None:
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
