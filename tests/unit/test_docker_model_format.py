"""Artifacts of Docker Model Runner become models, as its specification and its program write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corral.adapters.formats.docker_model import DockerModelFormat
from corral.core.errors import StorageError, Unsupported
from corral.core.models.digests import digest_of
from corral.core.models.model import Model, ModelFile, TemplateText
from corral.core.models.names import parse_name

_AI = "application/vnd.docker.ai."
_CONFIG = {
    "config": {
        "format": "gguf",
        "format_version": "3",
        "quantization": "IQ2_XXS/Q4_K_M",
        "parameters": "361.82M",
        "architecture": "llama",
        "size": "256.35MiB",
        "context_size": 8192,
        "gguf": {"general.name": "Small"},
    },
    "descriptor": {"createdAt": "2025-01-01T00:00:00Z"},
    "files": [{"diffID": "sha256:00", "type": f"{_AI}gguf.v3"}],
}


def _artifact(*layers: tuple[str, bytes, str | None], version: str = "0.1", config: Any = _CONFIG) -> tuple[bytes, Any]:
    data = json.dumps(config).encode()

    def described(media_type: str, content: bytes, path: str | None = None) -> dict[str, Any]:
        annotations = {} if path is None else {"annotations": {"org.cncf.model.filepath": path}}
        return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **annotations}

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described(f"{_AI}model.config.v{version}+json", data),
        "layers": [described(_AI + kind, content, path) for kind, content, path in layers],
    }
    texts = {digest_of(content): content for content in (data, *(content for _, content, _ in layers))}
    return json.dumps(manifest).encode(), texts


@pytest.mark.parametrize("projector", ["mmproj", "gguf.v3.mmproj"])
def test_an_artifact_is_read(projector: str) -> None:
    """Roles come from media types, facts from the config, texts from their layers."""
    manifest, texts = _artifact(
        ("gguf.v3", b"weights", None),
        (projector, b"eyes", None),
        ("gguf.v3.lora", b"lora", None),
        ("license", b"Free.", None),
        ("chat.template.jinja", b"{{ messages }}", "template.jinja"),
    )
    form = DockerModelFormat()
    assert form.recognises(manifest)
    marked = {blob.digest for blob in form.blobs(manifest) if blob.is_text}
    model = form.read(manifest, {digest: text for digest, text in texts.items() if digest in marked})
    assert [file.role for file in model.files] == ["weights", "projector", "adapter", "license", "template"]
    assert model.weights is not None
    assert model.weights.digest == digest_of(b"weights")
    assert (model.format, model.family, model.parameter_size) == ("gguf", "llama", "361.82M")
    assert (model.quantization, model.context_length) == ("IQ2_XXS/Q4_K_M", 8192)
    assert (model.licenses, model.template) == (("Free.",), TemplateText(kind="jinja", text="{{ messages }}"))


def test_files_have_their_paths() -> None:
    """In version 0.2 each file is a layer with its path; a hostile one is refused."""
    form = DockerModelFormat()
    shards = [(f"model-0000{number}-of-00002.gguf", bytes([number])) for number in (1, 2)]
    layers = [("gguf.v3", data, path) for path, data in shards]
    manifest, texts = _artifact(*layers, ("model.file", b"{}", "tokenizer.json"), version="0.2")
    assert [file.path for file in form.read(manifest, texts).files] == [*(path for path, _ in shards), "tokenizer.json"]
    hostile, _ = _artifact(("gguf.v3", b"x", "../../x.gguf"))
    with pytest.raises(StorageError, match="not a valid path"):
        form.blobs(hostile)


def test_archives_are_refused() -> None:
    """With their media type."""
    manifest, _ = _artifact(("vllm.config.tar", b"tar", None))
    with pytest.raises(StorageError, match=r"vllm\.config\.tar"):
        DockerModelFormat().blobs(manifest)


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "onnx"},
        {"system": "Be brief."},
        {"parameters": {"stop": ["."]}},
        {"template": TemplateText(kind="go", text="{{ .Prompt }}")},
        {"files": (ModelFile(role="config", media_type="", digest=digest_of(b""), size_bytes=0),)},
    ],
)
def test_what_has_no_place(fields: dict[str, Any]) -> None:
    """Is unsupported, and not lost."""
    with pytest.raises(Unsupported):
        DockerModelFormat().write(parse_name("m"), Model(**({"format": "gguf"} | fields)))
