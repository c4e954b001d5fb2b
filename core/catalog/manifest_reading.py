"""Reads a manifest and the small layers that it names: texts, parameters, the facts of a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager

from corral.core.errors import BlobNotFound, PluginError, StorageError
from corral.core.models.digests import Digest
from corral.core.models.model import Model, StoredModel
from corral.core.models.names import ModelName
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestBlob, ManifestFormat, StoredManifest

__all__ = ("blobs_of", "format_of", "read_model", "stored_model")

_log = logging.getLogger(__name__)

_LAYER_LIMIT_BYTES = 16 * 1024 * 1024
_LIMIT_BYTES = 64 * 1024 * 1024


def format_of(name: ModelName, manifest: bytes, formats: Sequence[ManifestFormat]) -> ManifestFormat:
    """The first format that recognises the manifest. Raises `StorageError`, with `name` in its message."""
    form = next((form for form in formats if form.recognises(manifest)), None)
    if form is None:
        names = ", ".join(form.name for form in formats)
        raise StorageError(f"the manifest of '{name}' is in no known format ({names})")
    return form


def blobs_of(name: ModelName, manifest: bytes, formats: Sequence[ManifestFormat]) -> tuple[ManifestBlob, ...]:
    """Every blob that the manifest names. Raises `StorageError` and `PluginError`, with `name` in their messages."""
    form = format_of(name, manifest, formats)
    with _about(name):
        return form.blobs(manifest)


async def read_model(
    name: ModelName,
    manifest: bytes,
    formats: Sequence[ManifestFormat],
    blobs: BlobStore,
    known: Mapping[Digest, bytes] = {},
) -> tuple[Model, int]:
    """The model that a manifest describes, and the size of all its blobs in bytes.

    Raises `StorageError`, and `PluginError` for a fault of the format, with `name` in their messages.
    A manifest is untrusted: the memory for its small layers is limited, whatever sizes it claims.
    `known` are small layers that are not in the store yet.
    """
    form = format_of(name, manifest, formats)
    with _about(name):
        named = form.blobs(manifest)
        texts: dict[Digest, bytes] = {}
        left_bytes = _LIMIT_BYTES
        for digest in dict.fromkeys(blob.digest for blob in named if blob.is_text):
            text = known.get(digest)
            if text is None:
                text = await _text(digest, blobs, min(_LAYER_LIMIT_BYTES, left_bytes))
            if text is not None:
                texts[digest] = text
                left_bytes -= len(text)
        model = form.read(manifest, texts)
    for file in model.files:
        if file.role == "other" and file.path is None:
            _log.warning("'%s' has a layer of a kind that Corral does not use: %s", name, file.media_type)
    return model, sum(blob.size_bytes for blob in named)


def stored_model(stored: StoredManifest, model: Model, size_bytes: int) -> StoredModel:
    """The model under the name, digest and time of its manifest."""
    return StoredModel(
        name=stored.name,
        digest=stored.digest,
        size_bytes=size_bytes,
        modified_at=stored.modified_at,
        **{field: getattr(model, field) for field in Model.__struct_fields__},
    )


@contextmanager
def _about(name: ModelName) -> Iterator[None]:
    try:
        yield
    except (StorageError, PluginError) as error:
        kind = PluginError if isinstance(error, PluginError) else StorageError
        raise kind(f"'{name}': {error.message}", error.remedy) from error


async def _text(digest: Digest, blobs: BlobStore, limit_bytes: int) -> bytes | None:
    data = bytearray()
    try:
        async with aclosing(blobs.read(digest, 0, limit_bytes + 1)) as chunks:
            async for chunk in chunks:
                data += chunk
    except BlobNotFound:
        return None
    if len(data) > limit_bytes:
        raise StorageError(f"the layer {digest} is larger than a text layer may be")
    return bytes(data)
