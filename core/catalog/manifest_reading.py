"""Reads a stored manifest with the small layers it names: texts, parameters, the facts of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corral.core.errors import BlobNotFound, StorageError
from corral.core.models.digests import Digest
from corral.core.models.model import StoredModel
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestFormat, StoredManifest

__all__ = ("read_manifest",)

_LAYER_LIMIT_BYTES = 16 * 1024 * 1024
_LIMIT_BYTES = 64 * 1024 * 1024


async def read_manifest(
    stored: StoredManifest,
    formats: Sequence[ManifestFormat],
    blobs: BlobStore,
    known: Mapping[Digest, bytes] = {},
) -> StoredModel:
    """The model that a manifest stands for, in the first of the dialects that knows it. Raises `StorageError`.

    A manifest may come from a stranger: what its small layers take in memory is bounded, whatever it says of them.
    `known` are those that are not in the store yet.
    """
    form = next((form for form in formats if form.recognises(stored.data)), None)
    if form is None:
        names = ", ".join(form.name for form in formats)
        raise StorageError(f"the manifest of '{stored.name}' is in no known format ({names})")
    layers: dict[Digest, bytes] = {}
    left_bytes = _LIMIT_BYTES
    for digest in form.small_layers(stored.data):
        text = known.get(digest)
        if text is None:
            text = await _small_blob(digest, blobs, min(_LAYER_LIMIT_BYTES, left_bytes))
        if text is not None:
            layers[digest] = text
            left_bytes -= len(text)
    return form.read(stored, layers)


async def _small_blob(digest: Digest, blobs: BlobStore, limit_bytes: int) -> bytes | None:
    data = bytearray()
    try:
        async for chunk in blobs.read(digest, 0, limit_bytes + 1):
            data += chunk
    except BlobNotFound:
        return None
    if len(data) > limit_bytes:
        raise StorageError(f"the layer {digest} is larger than a text layer may be")
    return bytes(data)
