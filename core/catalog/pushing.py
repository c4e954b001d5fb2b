"""Pushes models to registries: first the blobs, side by side, then the manifest, as it is or in another format."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from corral.core.catalog.blob_sending import BlobSender
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.lookup import ModelLookup
from corral.core.catalog.manifest_reading import blobs_of, read_model
from corral.core.catalog.registries import Registries
from corral.core.catalog.side_by_side import side_by_side
from corral.core.catalog.transfer_policy import TransferPolicy
from corral.core.errors import CorralError, InvalidRequest
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, digest_of
from corral.core.models.names import ModelName
from corral.core.models.portable import portable
from corral.core.models.references import Reference
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestFormat, StoredManifest
from corral.core.ports.registries import Registry
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("ModelPusher",)

_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class _Head(msgspec.Struct, frozen=True):
    mediaType: str = _OCI_MANIFEST  # the name in the file


class ModelPusher:
    """A blob that the registry already has is not sent."""

    def __init__(
        self,
        *,
        lookup: ModelLookup,
        inspector: WeightsInspector,
        blobs: BlobStore,
        formats: Sequence[ManifestFormat],
        registries: Registries,
        policy: TransferPolicy,
    ) -> None:
        self._lookup = lookup
        self._inspector = inspector
        self._blobs = blobs
        self._formats = tuple(formats)
        self._registries = registries
        self._policy = policy

    async def push(
        self,
        name: ModelName,
        reference: str,
        on_progress: OnProgress,
        *,
        manifest_format: str | None = None,
        insecure: bool = False,
    ) -> Digest:
        """Returns the manifest's digest in the registry.

        `manifest_format` writes the manifest anew (``ollama``, ``modelpack``); `insecure`: without TLS. Raises
        `InvalidRequest` if no registry reads the reference or there is no such format, `ModelNotFound`,
        `BlobNotFound`, `Unsupported` if the format cannot hold the model, and what `Registry` raises.
        """
        registry, target = self._find(reference, insecure=insecure)
        form = None if manifest_format is None else self._format(manifest_format)
        stored = await self._manifest(name, on_progress)
        manifest: bytes = stored.data
        texts: tuple[bytes, ...] = ()
        if form is not None and not form.recognises(manifest):
            manifest, texts = await self._rewritten(stored, form)
        sender = BlobSender(
            registry,
            target,
            # A model that was pulled from this registry is there in a repository with the model's own name.
            origin=Reference(
                scheme=target.scheme,
                host=target.host,
                path=f"{stored.name.namespace}/{stored.name.model}",
                insecure=target.insecure,
            ),
            blobs=self._blobs,
            texts={digest_of(text): text for text in texts},
            policy=self._policy,
            on_progress=on_progress,
        )
        blobs = {blob.digest: blob for blob in blobs_of(stored.name, manifest, self._formats)}.values()
        await side_by_side([partial(sender.send, blob) for blob in blobs])
        on_progress(FetchProgress(status="pushing manifest"))
        digest = await registry.put(target, manifest, _media_type(manifest))
        on_progress(FetchProgress(status="success"))
        return digest

    def _find(self, reference: str, *, insecure: bool) -> tuple[Registry, Reference]:
        found = self._registries.find(reference, insecure=insecure)
        if found is None:
            known = ", ".join(f"{scheme}://" for scheme in sorted(self._registries.schemes))
            raise InvalidRequest(
                f"no registry for {reference[:100]!r}",
                f"references start with one of: {known}" if known else "install a plugin that has a registry",
            )
        return found

    def _format(self, name: str) -> ManifestFormat:
        form = next((form for form in self._formats if form.name == name), None)
        if form is None:
            known = ", ".join(form.name for form in self._formats)
            raise InvalidRequest(f"there is no manifest format {name[:100]!r}", f"choose one of {known}")
        return form

    async def _manifest(self, name: ModelName, on_progress: OnProgress) -> StoredManifest:
        on_progress(FetchProgress(status="retrieving manifest"))
        try:
            return await self._lookup.manifest(name)
        except CorralError:
            on_progress(FetchProgress(status="couldn't retrieve manifest"))
            raise

    async def _rewritten(self, stored: StoredManifest, form: ManifestFormat) -> tuple[bytes, tuple[bytes, ...]]:
        """The manifest in another format, for the same weights, and the small blobs that it needs."""
        model, _ = await read_model(stored.name, stored.data, self._formats, self._blobs)
        metadata = await self._inspector.metadata(model.weights.digest) if model.weights else None
        return form.write(stored.name, portable(model, metadata))


def _media_type(manifest: bytes) -> str:
    try:
        return msgspec.json.decode(manifest, type=_Head).mediaType
    except MALFORMED:
        return _OCI_MANIFEST
