"""Changes what a registry holds: sends the blobs of a manifest before it, and deletes one tag alone."""

from __future__ import annotations

import uuid
from contextlib import aclosing, suppress

import msgspec

from corral.adapters.stores.remote_index import TOMBSTONE, RemoteIndex
from corral.adapters.stores.remote_registry import StorageRegistry
from corral.core.errors import NotFound, Unsupported
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, digest_of, mentioned_digests
from corral.core.models.references import Reference
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import StoredManifest

__all__ = ("RemoteWriting",)

_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_MANIFESTS = (_OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")


class _Typed(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""


class RemoteWriting:
    """Blobs come from `cache`, or from another repository of the registry. Raises what `StorageRegistry` raises."""

    def __init__(self, registry: StorageRegistry, index: RemoteIndex, cache: BlobStore) -> None:
        self._registry = registry
        self._index = index
        self._cache = cache
        self._deletes_tags = True  # until it refuses
        self._buried = set[str]()  # repositories that have the config of a buried tag

    async def send_blobs(self, reference: Reference, manifest: bytes) -> None:
        """Sends what the manifest names, and the repository lacks. A blob that neither cache nor registry has is left
        to the registry, which refuses the manifest if it needs it."""
        for digest in sorted(mentioned_digests(manifest)):
            await self._provide(reference, digest)

    async def put(self, reference: Reference, data: bytes) -> None:
        """Publishes a manifest whose blobs were sent."""
        await self._registry.put(reference, data, _media_type(data))

    async def delete(self, reference: Reference, stored: StoredManifest) -> None:
        """Deletes the tag; other tags of the manifest stay. Raises `Unsupported` if the registry deletes nothing.

        Registries that delete no tags delete manifests, with all their tags. So a tag that is not alone is first moved
        to a manifest of its own.
        """
        with suppress(NotFound):
            if self._deletes_tags:
                with suppress(Unsupported):
                    await self._registry.delete_manifest(reference)
                    return
                self._deletes_tags = False
            alone = not await self._index.same(stored)
            digest = stored.digest if alone else await self._bury(reference)
            try:
                await self._registry.delete_manifest(msgspec.structs.replace(reference, digest=digest))
            except Unsupported:
                if not alone:
                    await self._registry.put(reference, stored.data, _media_type(stored.data))
                raise

    async def _bury(self, reference: Reference) -> Digest:
        config = b"{}"
        if reference.path not in self._buried:
            await self._send(reference, digest_of(config), config)
            self._buried.add(reference.path)
        described = {"mediaType": TOMBSTONE, "digest": digest_of(config), "size": len(config)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": _OCI_MANIFEST,
            "artifactType": TOMBSTONE,
            "config": described,
            "layers": [],
            "annotations": {"corral.deleted": uuid.uuid4().hex},  # so that no other tag has this manifest
        }
        return await self._registry.put(reference, msgspec.json.encode(manifest), _OCI_MANIFEST)

    async def _provide(self, reference: Reference, digest: Digest) -> None:
        if await self._registry.blob_size_bytes(reference, digest) is not None:
            return
        for holder in self._index.holders(digest):
            if holder.path != reference.path and await self._registry.mount(reference, digest, holder):
                return
        info = await self._cache.stat(digest)
        if info is None:
            return
        writer = await self._registry.begin(reference, digest, info.size_bytes)
        try:
            async with aclosing(self._cache.read(digest)) as chunks:
                async for chunk in chunks:
                    await writer.write(chunk)
            await writer.commit()
        finally:
            await writer.abort()

    async def _send(self, reference: Reference, digest: Digest, data: bytes) -> None:
        if await self._registry.blob_size_bytes(reference, digest) is None:
            writer = await self._registry.begin(reference, digest, len(data))
            try:
                await writer.write(data)
                await writer.commit()
            finally:
                await writer.abort()


def _media_type(manifest: bytes) -> str:
    try:
        found = msgspec.json.decode(manifest, type=_Typed).media_type
    except MALFORMED:
        return _OCI_MANIFEST
    return found if found in _MANIFESTS else _OCI_MANIFEST
