"""Ollama's manifest dialect: a Docker image manifest whose layers are a model's weights, texts and parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from corral.adapters.formats.oci import (
    AnnotatedDescriptor,
    Word,
    annotations_of,
    check_descriptors,
    decode,
    decode_manifest,
    decode_messages,
    digest_or_none,
    digests_among,
    encode_manifest,
    encode_messages,
    layer_content,
)
from corral.core.errors import CorralError, StorageError, Unsupported
from corral.core.go.json_encoding import encode_json
from corral.core.models.digests import Digest, digest_of
from corral.core.models.model import FileRole, Model, ModelFile, RemoteModel, TemplateText
from corral.core.models.names import ModelName
from corral.core.ports.manifests import ManifestBlob

__all__ = ("OllamaManifestFormat",)

_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_PREFIX = "application/vnd.ollama.image."
_ROLES: Mapping[str, FileRole] = {
    "model": "weights",
    "tensor": "weights",
    "projector": "projector",
    "adapter": "adapter",
    "draft": "draft",
    "json": "config",
    "template": "template",
    "prompt": "template",  # its name until 2023
    "system": "system",
    "params": "params",
    "messages": "messages",
    "license": "license",
}
_WRITTEN = {"weights": "model", "projector": "projector", "adapter": "adapter", "draft": "draft"}
_TEXT_ROLES = frozenset({"template", "system", "params", "messages", "license"})
_TEXT_LIMIT_BYTES = 4 * 1024 * 1024

T = TypeVar("T")


class _Layer(AnnotatedDescriptor, frozen=True):
    name: str | None = None

    @property
    def role(self) -> FileRole:
        kind = self.media_type.removeprefix(_LAYER_PREFIX) if self.media_type.startswith(_LAYER_PREFIX) else ""
        return _ROLES.get(kind, "other")


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    config: _Layer
    layers: list[_Layer] | None = None  # Go writes null if there are no layers


_Address = Annotated[str, msgspec.Meta(max_length=2048)]
_Words = Annotated[list[Word], msgspec.Meta(max_length=256)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class _Corral(msgspec.Struct, frozen=True):
    """What Corral adds to the config, under its own key, which Ollama ignores."""

    remote_replicas: Annotated[list[_Address], msgspec.Meta(max_length=256)] = []
    remote_api: Word | None = None
    converted_from: Word | None = None
    joined_from: Annotated[list[Word], msgspec.Meta(max_length=65_535)] = []


class _Config(msgspec.Struct, frozen=True):
    """What is read from the config blob; Go writes null for an empty list."""

    model_format: Word = ""
    model_family: Word = ""
    model_families: _Words | None = None
    model_type: Word = ""
    file_type: Word = ""
    requires: Word | None = None
    renderer: Word | None = None
    parser: Word | None = None
    remote_host: _Address | None = None
    remote_model: _Address | None = None
    capabilities: _Words | None = None
    context_length: _Count | None = None
    embedding_length: _Count | None = None
    base_name: Word | None = None
    corral: _Corral = _Corral()


class OllamaManifestFormat:
    """Reads what Ollama has written since 2023, and writes what it reads."""

    @property
    def name(self) -> str:
        return "ollama"

    def recognises(self, manifest: bytes) -> bool:
        try:
            found = _parse(manifest)
        except CorralError:
            return False
        layers = found.layers or ()
        return found.config.media_type == _CONFIG_TYPE and (
            not layers or any(layer.media_type.startswith(_LAYER_PREFIX) for layer in layers)
        )

    def blobs(self, manifest: bytes) -> tuple[ManifestBlob, ...]:
        found = _parse(manifest)
        named = [_blob(found.config, is_text=True)]
        named += [_blob(layer, is_text=layer.role in _TEXT_ROLES) for layer in found.layers or ()]
        for descriptor, blob in zip((found.config, *(found.layers or ())), named, strict=True):
            if blob.is_text and blob.size_bytes > _TEXT_LIMIT_BYTES:
                raise StorageError(
                    f"the layer {blob.digest} ({descriptor.media_type}) claims {blob.size_bytes} bytes; "
                    f"a text layer may have at most {_TEXT_LIMIT_BYTES}"
                )
        return tuple(named)

    def read(self, manifest: bytes, texts: Mapping[Digest, bytes]) -> Model:
        found = _parse(manifest)
        config = decode(_content(found.config, texts), _Config, "the config")
        layers = found.layers or ()
        contents: dict[FileRole, list[bytes]] = {}
        for layer in layers:
            if layer.role in _TEXT_ROLES:
                contents.setdefault(layer.role, []).append(_content(layer, texts))

        def last(role: FileRole, parse: Callable[[bytes], T]) -> T | None:
            return parse(contents[role][-1]) if role in contents else None

        return Model(
            format=config.model_format,
            family=config.model_family,
            families=tuple(config.model_families or ()),
            parameter_size=config.model_type,
            quantization=config.file_type,
            context_length=config.context_length,
            embedding_length=config.embedding_length,
            base_name=config.base_name or "",
            files=tuple(
                ModelFile(
                    role=layer.role,
                    media_type=layer.media_type,
                    digest=layer.parsed_digest,
                    size_bytes=layer.size_bytes,
                    path=layer.name,
                    scale=layer.scale,
                )
                for layer in layers
            ),
            template=last("template", lambda data: TemplateText(kind="go", text=_text(data))),
            system=last("system", _text),
            parameters=last("params", lambda data: decode(data, dict[str, Any], "the layer of parameters")) or {},
            messages=last("messages", lambda data: decode_messages(data, "the layer of messages")) or (),
            licenses=tuple(_text(data) for data in contents.get("license", ())),
            capabilities=tuple(config.capabilities or ()),
            requires=config.requires,
            renderer=config.renderer,
            parser=config.parser,
            remote=_remote(config),
            converted_from=digest_or_none(config.corral.converted_from),
            joined_from=digests_among(config.corral.joined_from),
        )

    def write(self, name: ModelName, model: Model) -> tuple[bytes, tuple[bytes, ...]]:
        texts = _written_texts(model)
        layers = [_described(file) for file in model.files if file.role not in _TEXT_ROLES]
        layers += [_described_text(_LAYER_PREFIX + kind, data) for kind, data in texts]
        config = encode_json(_config(model, [layer.digest for layer in layers]))
        manifest = encode_manifest(_described_text(_CONFIG_TYPE, config), layers, media_type=_MANIFEST_TYPE)
        return manifest, (config, *(data for _, data in texts))


def _parse(manifest: bytes) -> _Manifest:
    found = decode_manifest(manifest, _Manifest)
    check_descriptors((found.config, *(found.layers or ())))
    return found


def _blob(layer: _Layer, *, is_text: bool) -> ManifestBlob:
    return ManifestBlob(digest=layer.parsed_digest, size_bytes=layer.size_bytes, path=layer.name, is_text=is_text)


def _content(layer: _Layer, texts: Mapping[Digest, bytes]) -> bytes:
    return layer_content(layer, texts, layer.media_type)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _described_text(media_type: str, data: bytes) -> _Layer:
    return _Layer(media_type=media_type, digest=digest_of(data), size_bytes=len(data))


def _described(file: ModelFile) -> _Layer:
    # A layer may have a name in Ollama's dialect too, but there it is a tensor's or a setting's.
    media_type = file.media_type or _LAYER_PREFIX + _WRITTEN.get("" if file.path else file.role, "")
    if not media_type.startswith(_LAYER_PREFIX) or media_type == _LAYER_PREFIX:
        raise Unsupported(f"an Ollama manifest has no layer for a file of kind {file.role!r} ({file.media_type!r})")
    return _Layer(
        media_type=media_type,
        digest=file.digest,
        size_bytes=file.size_bytes,
        name=file.path,
        annotations=annotations_of(file),
    )


def _remote(config: _Config) -> RemoteModel | None:
    if not config.remote_host or not config.remote_model:
        return None
    return RemoteModel(
        host=config.remote_host,
        model=config.remote_model,
        replicas=tuple(config.corral.remote_replicas),
        api=config.corral.remote_api,
    )


def _written_texts(model: Model) -> list[tuple[str, bytes]]:
    """Kind and content of each text layer, in the order in which Ollama writes them."""
    texts: list[tuple[str, bytes]] = []
    if model.template is not None:
        if model.template.kind != "go":
            raise Unsupported("an Ollama manifest can hold only Go templates", "keep the Jinja template in the weights")
        texts.append(("template", model.template.text.encode()))
    if model.system is not None:
        texts.append(("system", model.system.encode()))
    texts.extend(("license", text.encode()) for text in model.licenses)
    if model.parameters:
        texts.append(("params", encode_json(model.parameters, sort_keys=True)))
    if model.messages:
        texts.append(("messages", encode_messages(model.messages)))
    return texts


def _config(model: Model, diff_ids: Sequence[str]) -> dict[str, Any]:
    remote = model.remote
    own: dict[str, Any] = {"remote_replicas": list(remote.replicas), "remote_api": remote.api} if remote else {}
    own |= {"converted_from": model.converted_from, "joined_from": list(model.joined_from)}
    optional = {
        "requires": model.requires,
        "renderer": model.renderer,
        "parser": model.parser,
        "remote_host": remote.host if remote else None,
        "remote_model": remote.model if remote else None,
        "capabilities": list(model.capabilities),
        "context_length": model.context_length,
        "embedding_length": model.embedding_length,
        "base_name": model.base_name,
        "corral": {key: value for key, value in own.items() if value},
    }
    return {
        "model_format": model.format,
        "model_family": model.family,
        "model_families": list(model.families) or [model.family] * bool(model.family),
        "model_type": model.parameter_size,
        "file_type": model.quantization,
        **{key: value for key, value in optional.items() if value},
        "architecture": "amd64",
        "os": "linux",
        # Ollama ignores it; general container tools expect it.
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }
