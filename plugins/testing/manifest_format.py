"""The contract of manifest formats, as a suite to subclass: give it a fixture `manifest_format`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import ClassVar

import pytest
from msgspec.structs import replace

from corral.core.errors import StorageError, Unsupported
from corral.core.models.digests import Digest, digest_of
from corral.core.models.model import Model, ModelFile, TemplateText
from corral.core.models.names import parse_name
from corral.core.ports.manifests import ManifestBlob, ManifestFormat
from corral.core.requests.messages import Message

__all__ = ("ManifestFormatContract",)

_NAME = parse_name("kit")
_FOREIGN = (b"", b"{}", b"[]", b"null", b"not a manifest", b"\xff\xfe\xfd", b"[" * 100_000, b'{"a":' * 100_000)
_NO_DIGEST = b"sha256:../../../../../../../../../../../../../../../../../../../../etc"
_REPLACED = (b"\x00", b"\xff", b'"', b"-", b"9999999999999999999999")

_TEXTS: Mapping[str, object] = {
    "template": TemplateText(kind="jinja", text="{{ messages[0].content }}"),
    "system": "Be brief.",
    "parameters": {"temperature": 0.5, "stop": ["."]},
    "messages": (Message(role="user", content="Hi"), Message(role="assistant", content="Hello")),
    "licenses": ("Do as you like.",),
}


class ManifestFormatContract:
    """What every `ManifestFormat` promises. A subclass gives the fixture `manifest_format`.

    `model` is a model that the format can hold, by default one with a single file of weights.
    """

    model: ClassVar[Model] = Model(
        format="gguf",
        files=(ModelFile(role="weights", media_type="", digest=digest_of(b"weights"), size_bytes=7),),
    )

    @pytest.fixture
    def manifest_format(self) -> ManifestFormat:
        raise NotImplementedError("a subclass of ManifestFormatContract gives the fixture manifest_format")

    def test_its_own_manifests_are_recognised(self, manifest_format: ManifestFormat) -> None:
        """The format has a name, and recognises what it writes."""
        assert manifest_format.name
        assert manifest_format.recognises(manifest_format.write(_NAME, self.model)[0])

    def test_a_model_comes_back(self, manifest_format: ManifestFormat) -> None:
        """What was written is read as the same format and files, and writing that again changes nothing."""
        manifest, texts = manifest_format.write(_NAME, self.model)
        found = manifest_format.read(manifest, _by_digest(texts))
        assert isinstance(found, Model)
        assert found.format == self.model.format
        assert {_identity(file) for file in self.model.files} <= {_identity(file) for file in found.files}
        manifest, texts = manifest_format.write(_NAME, found)
        assert manifest_format.read(manifest, _by_digest(texts)) == found

    @pytest.mark.parametrize("field", list(_TEXTS))
    def test_nothing_is_lost_silently(self, manifest_format: ManifestFormat, field: str) -> None:
        """A template, system text, parameters, messages and licenses are kept, or `write` raises `Unsupported`."""
        try:
            manifest, texts = manifest_format.write(_NAME, replace(self.model, **{field: _TEXTS[field]}))
        except Unsupported:
            return
        found = manifest_format.read(manifest, _by_digest(texts))
        assert getattr(found, field) == _TEXTS[field]

    def test_every_blob_is_named(self, manifest_format: ManifestFormat) -> None:
        """`blobs` names each file and each text with its size: what it does not name is deleted as unused."""
        manifest, texts = manifest_format.write(_NAME, self.model)
        named = {blob.digest: blob.size_bytes for blob in manifest_format.blobs(manifest)}
        for file in self.model.files:
            assert named[file.digest] == file.size_bytes
        for text in texts:
            assert named[digest_of(text)] == len(text)

    def test_texts_are_marked(self, manifest_format: ManifestFormat) -> None:
        """`read` needs no more than the blobs that are marked `is_text`."""
        manifest, texts = manifest_format.write(_NAME, self.model)
        marked = {blob.digest for blob in manifest_format.blobs(manifest) if blob.is_text}
        given = {digest: text for digest, text in _by_digest(texts).items() if digest in marked}
        assert manifest_format.read(manifest, given) == manifest_format.read(manifest, _by_digest(texts))

    @pytest.mark.parametrize("number", range(len(_FOREIGN)))
    def test_what_is_foreign(self, manifest_format: ManifestFormat, number: int) -> None:
        """Other bytes are not recognised, without an exception; `blobs` and `read` raise `StorageError` for them."""
        assert manifest_format.recognises(_FOREIGN[number]) is False
        with pytest.raises(StorageError):
            manifest_format.blobs(_FOREIGN[number])
        with pytest.raises(StorageError):
            manifest_format.read(_FOREIGN[number], {})

    def test_a_damaged_manifest(self, manifest_format: ManifestFormat) -> None:
        """Wherever a manifest is cut off or changed, nothing but `StorageError` is raised, `recognises` does not fail,
        and sizes stay numbers of bytes.
        """
        manifest, texts = manifest_format.write(_NAME, self.model)
        for damaged in _damaged(manifest):
            assert isinstance(manifest_format.recognises(damaged), bool)
            with suppress(StorageError):
                for blob in manifest_format.blobs(damaged):
                    assert isinstance(blob, ManifestBlob)
                    assert 0 <= blob.size_bytes < 1 << 60
                assert isinstance(manifest_format.read(damaged, _by_digest(texts)), Model)

    def test_a_digest_that_is_none(self, manifest_format: ManifestFormat) -> None:
        """A digest in a manifest may be anything, above all a path: `blobs` and `read` raise `StorageError`."""
        manifest, texts = manifest_format.write(_NAME, self.model)
        for digest in [file.digest for file in self.model.files]:
            hostile = manifest.replace(digest.encode(), _NO_DIGEST)
            assert hostile != manifest, "the manifest does not contain the digest of a file as text"
            with pytest.raises(StorageError):
                manifest_format.blobs(hostile)
            with pytest.raises(StorageError):
                manifest_format.read(hostile, _by_digest(texts))

    def test_texts_that_are_missing_or_damaged(self, manifest_format: ManifestFormat) -> None:
        """`read` returns a `Model` or raises `StorageError`, whatever the blobs contain."""
        manifest, texts = manifest_format.write(_NAME, self.model)
        for content in (None, b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000):
            given = {} if content is None else dict.fromkeys(_by_digest(texts), content)
            with suppress(StorageError):
                assert isinstance(manifest_format.read(manifest, given), Model)


def _by_digest(texts: tuple[bytes, ...]) -> dict[Digest, bytes]:
    return {digest_of(text): text for text in texts}


def _identity(file: ModelFile) -> tuple[str, Digest, int]:
    return file.role, file.digest, file.size_bytes


def _damaged(manifest: bytes) -> Iterator[bytes]:
    for at in range(0, len(manifest), max(1, len(manifest) // 64)):
        yield manifest[:at]
        for replaced in _REPLACED:
            yield manifest[:at] + replaced + manifest[at + 1 :]
