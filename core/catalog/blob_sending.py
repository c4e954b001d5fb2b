"""Sends blobs to a registry, each again from its beginning if the line breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

from corral.core.catalog.transfer_policy import TransferPolicy
from corral.core.errors import CorralError, SourceUnavailable
from corral.core.models.digests import Digest, short_digest
from corral.core.models.references import Reference
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestBlob
from corral.core.ports.registries import Registry
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("BlobSender",)

_CHUNK_BYTES = 1024 * 1024


class BlobSender:
    """Sends to one repository. `origin` is a repository that may have blobs already; `texts` are not in the store."""

    def __init__(
        self,
        registry: Registry,
        target: Reference,
        *,
        origin: Reference,
        blobs: BlobStore,
        texts: Mapping[Digest, bytes],
        policy: TransferPolicy,
        on_progress: OnProgress,
    ) -> None:
        self._registry = registry
        self._target = target
        self._origin = origin
        self._blobs = blobs
        self._texts = texts
        self._policy = policy
        self._on_progress = on_progress

    async def send(self, blob: ManifestBlob) -> None:
        """Does not send what the registry has. Raises `BlobNotFound`, and what `Registry` raises."""
        most_bytes, faults = -1, 0
        while True:
            try:
                if not await self._registry.mount(self._target, blob.digest, self._origin):
                    async with aclosing(self._sending(blob)) as steps:
                        async for sent_bytes in steps:
                            if sent_bytes > most_bytes:  # progress never goes backward
                                most_bytes = sent_bytes
                                self._tell(blob, sent_bytes)
                elif most_bytes < blob.size_bytes:
                    self._tell(blob, blob.size_bytes)
            except SourceUnavailable:
                faults += 1
                if faults >= self._policy.tries:
                    raise
                await asyncio.sleep(self._policy.pause_after_s(faults))
            else:
                return

    async def _sending(self, blob: ManifestBlob) -> AsyncGenerator[int, None]:
        """Yields how many bytes have been sent; the last one when the registry has the blob."""
        writer = await self._registry.begin(self._target, blob.digest, blob.size_bytes)
        sent_bytes = 0
        try:
            async with aclosing(self._chunks(blob.digest)) as chunks:
                async for chunk in chunks:
                    await writer.write(chunk)
                    sent_bytes += len(chunk)
                    if sent_bytes < blob.size_bytes:
                        yield sent_bytes
            await writer.commit()
        except BaseException:
            with suppress(CorralError):  # the original error is what matters
                await writer.abort()
            raise
        yield blob.size_bytes

    async def _chunks(self, digest: Digest) -> AsyncGenerator[bytes, None]:
        if (text := self._texts.get(digest)) is not None:
            for start in range(0, len(text), _CHUNK_BYTES):
                yield text[start : start + _CHUNK_BYTES]
            return
        async with aclosing(self._blobs.read(digest)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _tell(self, blob: ManifestBlob, sent_bytes: int) -> None:
        self._on_progress(
            FetchProgress(
                status=f"pushing {short_digest(blob.digest)}",
                digest=blob.digest,
                total_bytes=blob.size_bytes,
                completed_bytes=sent_bytes,
            )
        )
