"""Docker Model Runner's artifacts: OCI image manifests whose layers are the files of a model, uncompressed.

Source: github.com/docker/model-spec and the code of docker/model-runner, which goes further than the specification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from corral.adapters.formats.oci import (
    AnnotatedDescriptor,
    Word,
    annotations_of,
    check_descriptors,
    decode,
    decode_manifest,
    encode_manifest,
    layer_content,
)
from corral.core.errors import StorageError, Unsupported
from corral.core.models.digests import Digest, digest_of
from corral.core.models.model import FileRole, Model, ModelFile, TemplateText
from corral.core.models.names import ModelName
from corral.core.models.paths import check_together
from corral.core.ports.manifests import ManifestBlob

__all__ = ("DockerModelFormat",)

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_PREFIX = "application/vnd.docker.ai.model.config.v0."
_CONFIG_TYPE = f"{_CONFIG_PREFIX}1+json"
_LAYER_PREFIX = "application/vnd.docker.ai."
_PATH = "org.cncf.model.filepath"
_ROLES: Mapping[str, FileRole] = {
    "gguf.v3": "weights",
    "gguf.v3.lora": "adapter",
    "gguf.v3.mmproj": "projector",  # what the specification says
    "mmproj": "projector",  # what the program writes
    "safetensors": "weights",
    "license": "license",
    "chat.template.jinja": "template",
    "model.file": "config",
}
_WRITTEN: Mapping[FileRole, str] = {"weights": "gguf.v3", "adapter": "gguf.v3.lora", "projector": "mmproj"}
_TEXT_ROLES: tuple[FileRole, ...] = ("license", "template")
_ARCHIVES = (".tar", "dduf")
_TEXT_LIMIT_BYTES = 4 * 1024 * 1024


class _Layer(AnnotatedDescriptor, frozen=True):
    @property
    def path(self) -> str | None:
        """None for texts: they are no files of the model."""
        return None if self.role in _TEXT_ROLES else (self.annotations or {}).get(_PATH)

    @property
    def role(self) -> FileRole:
        return _ROLES.get(self.media_type.removeprefix(_LAYER_PREFIX), "other")


class _Manifest(msgspec.Struct, frozen=True):
    config: _Layer
    layers: list[_Layer]


class _Kind(msgspec.Struct, frozen=True):
    format: Word = ""
    quantization: Word = ""
    parameters: Word = ""
    architecture: Word = ""
    context_size: int | None = None


class _Config(msgspec.Struct, frozen=True):
    """What is read from the config blob. The weights' own header, which it may quote, says more."""

    config: _Kind


class DockerModelFormat:
    """Reads artifacts of versions 0.1 and 0.2, except for archives, and writes GGUF models of version 0.1."""

    @property
    def name(self) -> str:
        return "docker-model"

    def recognises(self, manifest: bytes) -> bool:
        try:
            return decode(manifest, _Manifest, "the manifest").config.media_type.startswith(_CONFIG_PREFIX)
        except StorageError:
            return False

    def blobs(self, manifest: bytes) -> tuple[ManifestBlob, ...]:
        found = _parse(manifest)
        named = [_blob(found.config, is_text=True)]
        named += [_blob(layer, is_text=layer.role in _TEXT_ROLES) for layer in found.layers]
        for blob in named:
            if blob.is_text and blob.size_bytes > _TEXT_LIMIT_BYTES:
                most = f"a text may have at most {_TEXT_LIMIT_BYTES}"
                raise StorageError(f"the layer {blob.digest} claims {blob.size_bytes} bytes; {most}")
        return tuple(named)

    def read(self, manifest: bytes, texts: Mapping[Digest, bytes]) -> Model:
        found = _parse(manifest)
        config = decode(layer_content(found.config, texts, "config"), _Config, "the config").config
        templates, licenses = _texts("template", found, texts), _texts("license", found, texts)
        context_length = config.context_size if config.context_size and 0 < config.context_size <= 1 << 40 else None
        return Model(
            format=config.format,
            family=config.architecture,
            families=(config.architecture,) if config.architecture else (),
            parameter_size=config.parameters,
            quantization=config.quantization,
            context_length=context_length,
            files=tuple(
                ModelFile(
                    role=layer.role,
                    media_type=layer.media_type,
                    digest=layer.parsed_digest,
                    size_bytes=layer.size_bytes,
                    path=layer.path,
                    scale=layer.scale,
                )
                for layer in found.layers
            ),
            template=TemplateText(kind="jinja", text=templates[-1]) if templates else None,
            licenses=tuple(licenses),
        )

    def write(self, name: ModelName, model: Model) -> tuple[bytes, tuple[bytes, ...]]:
        _refuse_what_has_no_place(model)
        layers = [_described(file) for file in model.files if file.role not in _TEXT_ROLES]
        texts = [("license", text.encode()) for text in model.licenses]
        if model.template is not None:
            texts.append(("chat.template.jinja", model.template.text.encode()))
        layers += [_described_text(_LAYER_PREFIX + kind, data) for kind, data in texts]
        config = msgspec.json.encode(_config(model, layers))
        manifest = encode_manifest(_described_text(_CONFIG_TYPE, config), layers, media_type=_MANIFEST_TYPE)
        return manifest, (config, *(data for _, data in texts))


def _texts(role: FileRole, manifest: _Manifest, texts: Mapping[Digest, bytes]) -> Sequence[str]:
    layers = [layer for layer in manifest.layers if layer.role == role]
    return [layer_content(layer, texts, role).decode("utf-8", "replace") for layer in layers]


def _parse(manifest: bytes) -> _Manifest:
    found = decode_manifest(manifest, _Manifest)
    check_descriptors((found.config, *found.layers))
    for layer in found.layers:
        if layer.media_type.startswith(_LAYER_PREFIX) and layer.media_type.endswith(_ARCHIVES):
            raise StorageError(
                f"the layer {layer.digest} is an archive ({layer.media_type}); only single files are supported",
                "package the model again, with a layer for each file",
            )
    check_together(layer.path for layer in found.layers if layer.path is not None)
    return found


def _blob(layer: _Layer, *, is_text: bool) -> ManifestBlob:
    return ManifestBlob(digest=layer.parsed_digest, size_bytes=layer.size_bytes, path=layer.path, is_text=is_text)


def _refuse_what_has_no_place(model: Model) -> None:
    if model.format != "gguf" or model.remote is not None:
        raise Unsupported("only GGUF models are written as artifacts of Docker Model Runner")
    if model.template is not None and model.template.kind != "jinja":
        raise Unsupported("an artifact of Docker Model Runner can hold only Jinja templates")
    for field in ("system", "parameters", "messages"):
        if getattr(model, field):
            raise Unsupported(f"an artifact of Docker Model Runner has no place for the model's {field}")


def _described(file: ModelFile) -> _Layer:
    kind = _WRITTEN.get(file.role)
    if kind is None:
        raise Unsupported(f"an artifact of Docker Model Runner has no layer for a file of kind {file.role!r}")
    return _Layer(
        media_type=_LAYER_PREFIX + kind,
        digest=file.digest,
        size_bytes=file.size_bytes,
        annotations=annotations_of(file, {_PATH: file.path}),
    )


def _described_text(media_type: str, data: bytes) -> _Layer:
    return _Layer(media_type=media_type, digest=digest_of(data), size_bytes=len(data))


def _config(model: Model, layers: Sequence[_Layer]) -> dict[str, Any]:
    known = {
        "format": model.format,
        "quantization": model.quantization,
        "parameters": model.parameter_size,
        "architecture": model.family,
        "context_size": model.context_length,
    }
    return {
        "config": {key: value for key, value in known.items() if value},
        "descriptor": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
