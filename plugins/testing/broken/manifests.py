"""A sound manifest format, and formats that break one promise each: they show that `ManifestFormatContract` sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from msgspec.structs import replace

from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.core.models.digests import Digest
from corral.core.models.model import Model
from corral.core.ports.manifests import ManifestBlob

__all__ = ("MANIFESTS", "SoundManifestFormat")


class SoundManifestFormat(OllamaManifestFormat):
    """A `ManifestFormat` that keeps every promise."""

    breaks: ClassVar[str | None] = None
    """The test that fails with this format, and no other does."""


class StrangerManifestFormat(SoundManifestFormat):
    """Does not recognize what it writes."""

    breaks = "test_its_own_manifests_are_recognised"

    def recognises(self, manifest: bytes) -> bool:
        return False


class ForgetfulManifestFormat(SoundManifestFormat):
    """Forgets which format the weights have."""

    breaks = "test_a_model_comes_back"

    def read(self, manifest: bytes, texts: Mapping[Digest, bytes]) -> Model:
        return replace(super().read(manifest, texts), format="")


class ImpersonalManifestFormat(SoundManifestFormat):
    """Loses the system text."""

    breaks = "test_nothing_is_lost_silently"

    def read(self, manifest: bytes, texts: Mapping[Digest, bytes]) -> Model:
        return replace(super().read(manifest, texts), system=None)


class ConcealingManifestFormat(SoundManifestFormat):
    """Names all blobs but the last."""

    breaks = "test_every_blob_is_named"

    def blobs(self, manifest: bytes) -> tuple[ManifestBlob, ...]:
        return super().blobs(manifest)[:-1]


class TextlessManifestFormat(SoundManifestFormat):
    """Does not say which blobs it needs."""

    breaks = "test_texts_are_marked"

    def blobs(self, manifest: bytes) -> tuple[ManifestBlob, ...]:
        return tuple(replace(blob, is_text=False) for blob in super().blobs(manifest))


class CredulousManifestFormat(SoundManifestFormat):
    """Finds no blobs in an empty manifest."""

    breaks = "test_what_is_foreign"

    def blobs(self, manifest: bytes) -> tuple[ManifestBlob, ...]:
        return super().blobs(manifest) if manifest else ()


class StartledManifestFormat(SoundManifestFormat):
    """Fails for a manifest without an end."""

    breaks = "test_a_damaged_manifest"

    def recognises(self, manifest: bytes) -> bool:
        if b"layers" in manifest and not manifest.rstrip().endswith(b"}"):
            raise ValueError("the manifest has no end")
        return super().recognises(manifest)


class TrustingManifestFormat(SoundManifestFormat):
    """Accepts a path as digest."""

    breaks = "test_a_digest_that_is_none"

    def blobs(self, manifest: bytes) -> tuple[ManifestBlob, ...]:
        return () if b"../" in manifest else super().blobs(manifest)


class FragileManifestFormat(SoundManifestFormat):
    """Fails for a config that is a list."""

    breaks = "test_texts_that_are_missing_or_damaged"

    def read(self, manifest: bytes, texts: Mapping[Digest, bytes]) -> Model:
        if b"[]" in texts.values():
            raise KeyError("model_format")
        return super().read(manifest, texts)


MANIFESTS: tuple[type[SoundManifestFormat], ...] = (
    StrangerManifestFormat,
    ForgetfulManifestFormat,
    ImpersonalManifestFormat,
    ConcealingManifestFormat,
    TextlessManifestFormat,
    CredulousManifestFormat,
    StartledManifestFormat,
    TrustingManifestFormat,
    FragileManifestFormat,
)
"""The broken formats."""
