"""What plugins return is checked before anything relies on it."""

from __future__ import annotations

from typing import Any

import pytest

from corral.core.errors import PluginError
from corral.core.models.digests import digest_of
from corral.core.models.model import Model, ModelMetadata
from corral.core.models.names import parse_name
from corral.core.ports.manifests import ManifestBlob
from corral.plugins.hooks import MANIFEST_FORMATS, METADATA_READERS
from corral.plugins.testing.broken.manifests import SoundManifestFormat
from corral.plugins.testing.broken.readers import SoundReader

_DIGEST = digest_of(b"")
_METADATA: dict[str, Any] = {"format": "x", "architecture": "x", "file_type": "", "tensor_bytes": 0}
_WRONG: dict[str, tuple[Any, str]] = {
    "elements": ((b"blob",), "blobs: ValidationError: Expected `object`, got `bytes`"),
    "size": ((ManifestBlob(digest=_DIGEST, size_bytes="7"),), r"size_bytes"),  # type: ignore[arg-type]
    "digest": ((ManifestBlob(digest=None, size_bytes=7),), r"digest"),  # type: ignore[arg-type]
    "list": ([ManifestBlob(digest=_DIGEST, size_bytes=7)], "instead of tuple"),
}


class _Returning:
    """Returns the same from every method."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: self._result


@pytest.mark.parametrize("wrong", _WRONG)
def test_blobs_of_a_wrong_type_are_a_fault_of_the_plugin(wrong: str) -> None:
    """The error names the plugin, the method and the field."""
    result, complaint = _WRONG[wrong]
    guarded = MANIFEST_FORMATS.guard(_Returning(result), "the plugin bad, odd")
    with pytest.raises(PluginError, match=f"^the plugin bad, odd: blobs: .*{complaint.removeprefix('blobs: ')}"):
        guarded.blobs(b"")


def test_fields_of_a_wrong_type_are_a_fault_of_the_plugin() -> None:
    """That holds for models, metadata and tensors as well."""
    guarded = MANIFEST_FORMATS.guard(_Returning(Model(files=(None,))), "x")  # type: ignore[arg-type]
    with pytest.raises(PluginError, match=r"read: .*files"):
        guarded.read(b"", {})
    metadata = ModelMetadata(**_METADATA, parameter_count="many")  # type: ignore[arg-type]
    for result, method in ((metadata, "read"), ([("weight", "F32", [1, "2"])], "tensors")):
        reader: Any = METADATA_READERS.guard(_Returning(result), "x")
        with pytest.raises(PluginError, match=f"x: {method}: "):
            getattr(reader, method)(None)


def test_what_is_right_stays_as_it_is() -> None:
    """A sound format and a sound reader return the same, guarded or not."""
    sound = SoundManifestFormat()
    guarded = MANIFEST_FORMATS.guard(sound, "x")
    manifest, texts = sound.write(parse_name("kit"), Model(format="gguf", system="Be brief.", parameters={"a": [1.5]}))
    assert guarded.write(parse_name("kit"), guarded.read(manifest, {digest_of(text): text for text in texts})) == (
        manifest,
        texts,
    )
    assert guarded.blobs(manifest) == sound.blobs(manifest)
    assert METADATA_READERS.guard(SoundReader(), "x").format == "gguf"
