"""Pushes models to registries: first the blobs, concurrently, then the manifest, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing, suppress
from functools import partial

import msgspec

from corral.core.catalog.lookup import ModelLookup
from corral.core.catalog.manifest_reading import blobs_of
from corral.core.catalog.registries import Registries
from corral.core.catalog.side_by_side import side_by_side
from corral.core.errors import CorralError, InvalidRequest
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, short_digest
from corral.core.models.names import ModelName
from corral.core.models.references import Reference
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestBlob, ManifestFormat, StoredManifest
from corral.core.ports.registries import Registry
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("ModelPusher",)

_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class _Head(msgspec.Struct, frozen=True):
    mediaType: str = _OCI_MANIFEST  # the name in the file


class ModelPusher:
    """A blob that the registry already has is not sent."""

    def __init__(
        self, *, lookup: ModelLookup, blobs: BlobStore, formats: Sequence[ManifestFormat], registries: Registries
    ) -> None:
        self._lookup = lookup
        self._blobs = blobs
        self._formats = tuple(formats)
        self._registries = registries

    async def push(self, name: ModelName, reference: str, on_progress: OnProgress, *, insecure: bool = False) -> Digest:
        """Returns the manifest's digest in the registry.

        Raises `InvalidRequest` if no registry reads the reference, `ModelNotFound`, `BlobNotFound`, and what `Registry`
        raises.
        """
        found = self._registries.find(reference, insecure=insecure)
        if found is None:
            known = ", ".join(f"{scheme}://" for scheme in sorted(self._registries.schemes))
            raise InvalidRequest(
                f"no registry for {reference[:100]!r}",
                f"references start with one of: {known}" if known else "install a plugin that has a registry",
            )
        registry, target = found
        stored = await self._manifest(name, on_progress)
        blobs = blobs_of(stored.name, stored.data, self._formats)
        once = {blob.digest: blob for blob in blobs}.values()
        # A model that was pulled from this registry is there in a repository with the model's own name.
        origin = Reference(scheme=target.scheme, host=target.host, path=f"{stored.name.namespace}/{stored.name.model}")
        await side_by_side([partial(self._push, registry, target, origin, blob, on_progress) for blob in once])
        on_progress(FetchProgress(status="pushing manifest"))
        digest = await registry.put(target, stored.data, _media_type(stored.data))
        on_progress(FetchProgress(status="success"))
        return digest

    async def _manifest(self, name: ModelName, on_progress: OnProgress) -> StoredManifest:
        on_progress(FetchProgress(status="retrieving manifest"))
        try:
            return await self._lookup.manifest(name)
        except CorralError:
            on_progress(FetchProgress(status="couldn't retrieve manifest"))
            raise

    async def _push(
        self, registry: Registry, target: Reference, origin: Reference, blob: ManifestBlob, on_progress: OnProgress
    ) -> None:
        sent_bytes = 0

        def tell() -> None:
            status = f"pushing {short_digest(blob.digest)}"
            on_progress(
                FetchProgress(
                    status=status, digest=blob.digest, total_bytes=blob.size_bytes, completed_bytes=sent_bytes
                )
            )

        if not await registry.mount(target, blob.digest, origin):
            writer = await registry.begin(target, blob.digest, blob.size_bytes)
            try:
                async with aclosing(self._blobs.read(blob.digest)) as chunks:
                    async for chunk in chunks:
                        await writer.write(chunk)
                        sent_bytes += len(chunk)
                        tell()
                await writer.commit()
            except BaseException:
                with suppress(CorralError):  # the original error is what matters
                    await writer.abort()
                raise
        sent_bytes = blob.size_bytes
        tell()


def _media_type(manifest: bytes) -> str:
    try:
        return msgspec.json.decode(manifest, type=_Head).mediaType
    except MALFORMED:
        return _OCI_MANIFEST
