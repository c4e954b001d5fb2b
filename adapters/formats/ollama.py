"""Ollama's manifest dialect: a Docker image manifest whose layers are a model's weights, texts and parameters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from corral.core.errors import CorralError, StorageError, Unsupported
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, digest_of, parse_digest
from corral.core.models.model import FileRole, ModelFile, ModelMetadata, StoredModel, TemplateText
from corral.core.ports.manifests import StoredManifest
from corral.core.requests.messages import Message

__all__ = ("OllamaManifestFormat",)

_log = logging.getLogger(__name__)

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
    "prompt": "template",  # the name it had until 2023
    "system": "system",
    "params": "params",
    "messages": "messages",
    "license": "license",
}
_WRITTEN = {"weights": "model", "projector": "projector", "adapter": "adapter", "draft": "draft"}
_TEXT_ROLES = frozenset({"template", "system", "params", "messages", "license"})

_MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024
_TEXT_LIMIT_BYTES = 4 * 1024 * 1024
_SIZE_LIMIT_BYTES = 1 << 46  # of a layer; what all layers of a manifest claim together stays below 64 bits

T = TypeVar("T")


class _Descriptor(msgspec.Struct, frozen=True, rename={"media_type": "mediaType", "size_bytes": "size"}):
    media_type: str
    digest: str
    size_bytes: int
    name: str | None = None

    @property
    def role(self) -> FileRole:
        kind = self.media_type.removeprefix(_LAYER_PREFIX) if self.media_type.startswith(_LAYER_PREFIX) else ""
        return _ROLES.get(kind, "other")


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    config: _Descriptor
    layers: list[_Descriptor] | None = None  # Go writes null for a model without layers
    schema_version: int = 2
    media_type: str = _MANIFEST_TYPE


_Word = Annotated[str, msgspec.Meta(max_length=256)]
_Address = Annotated[str, msgspec.Meta(max_length=2048)]
_Words = Annotated[list[_Word], msgspec.Meta(max_length=256)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class _Corral(msgspec.Struct, frozen=True):
    """What Corral adds to the config, under its own key, which Ollama passes over."""

    remote_replicas: Annotated[list[_Address], msgspec.Meta(max_length=256)] = []
    remote_api: _Word | None = None


class _Config(msgspec.Struct, frozen=True):
    """What is read of the config blob; Go writes null for an empty list. Lists of models show it: it has bounds."""

    model_format: _Word = ""
    model_family: _Word = ""
    model_families: _Words | None = None
    model_type: _Word = ""
    file_type: _Word = ""
    requires: _Word | None = None
    renderer: _Word | None = None
    parser: _Word | None = None
    remote_host: _Address | None = None
    remote_model: _Address | None = None
    capabilities: _Words | None = None
    context_length: _Count | None = None
    embedding_length: _Count | None = None
    corral: _Corral = _Corral()


class _Message(msgspec.Struct, frozen=True):
    role: str
    content: str = ""


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

    def small_layers(self, manifest: bytes) -> list[Digest]:
        found = _parse(manifest)
        wanted = [found.config, *(layer for layer in found.layers or () if layer.role in _TEXT_ROLES)]
        for descriptor in wanted:
            if not 0 <= descriptor.size_bytes <= _TEXT_LIMIT_BYTES:
                raise StorageError(
                    f"the layer {descriptor.digest} ({descriptor.media_type}) claims {descriptor.size_bytes} bytes; "
                    f"a text layer may have at most {_TEXT_LIMIT_BYTES}"
                )
        return [_digest(descriptor) for descriptor in wanted]

    def read(self, stored: StoredManifest, layers: dict[Digest, bytes]) -> StoredModel:
        found = _parse(stored.data)
        model = str(stored.name)
        config = _decode(_layer(found.config, layers, model), _Config, f"the config of '{model}'")
        texts: dict[str, list[bytes]] = {}
        files = []
        for layer in found.layers or ():
            if layer.role in _TEXT_ROLES:
                texts.setdefault(layer.role, []).append(_layer(layer, layers, model))
            elif layer.role == "other":
                _log.warning("'%s' has a layer of a kind that Corral does not use: %s", model, layer.media_type)
            files.append(
                ModelFile(
                    role=layer.role,
                    media_type=layer.media_type,
                    digest=_digest(layer),
                    size_bytes=layer.size_bytes,
                    path=layer.name,
                )
            )

        def last(role: str, parse: Callable[[bytes], T]) -> T | None:
            return parse(texts[role][-1]) if role in texts else None

        return StoredModel(
            name=stored.name,
            digest=stored.digest,
            size_bytes=found.config.size_bytes + sum(layer.size_bytes for layer in found.layers or ()),
            modified_at=stored.modified_at,
            format=config.model_format,
            family=config.model_family,
            families=tuple(config.model_families or ()),
            parameter_size=config.model_type,
            quantization=config.file_type,
            context_length=config.context_length,
            embedding_length=config.embedding_length,
            files=tuple(files),
            template=last("template", lambda data: TemplateText(kind="go", text=_text(data))),
            system=last("system", _text),
            parameters=last("params", lambda data: _decode(data, dict[str, Any], f"the parameters of '{model}'")) or {},
            messages=last("messages", lambda data: _messages(data, model)) or (),
            licenses=tuple(_text(data) for data in texts.get("license", ())),
            capabilities=tuple(config.capabilities or ()),
            requires=config.requires,
            renderer=config.renderer,
            parser=config.parser,
            remote_host=config.remote_host,
            remote_model=config.remote_model,
            remote_replicas=tuple(config.corral.remote_replicas),
            remote_api=config.corral.remote_api,
        )

    def write(self, record: StoredModel, metadata: ModelMetadata | None) -> tuple[bytes, list[bytes]]:
        """Raises `Unsupported` for what the dialect has no place for."""
        files = [_described(file) for file in record.files if file.role not in _TEXT_ROLES]
        texts = _written_texts(record)
        layers = [*files, *(_descriptor(_LAYER_PREFIX + kind, data) for kind, data in texts)]
        config = msgspec.json.encode(_config(record, metadata, [layer.digest for layer in layers]))
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": _plain(_descriptor(_CONFIG_TYPE, config)),
            "layers": [_plain(layer) for layer in layers],
        }
        return msgspec.json.encode(manifest) + b"\n", [config, *(data for _, data in texts)]


def _parse(manifest: bytes) -> _Manifest:
    if len(manifest) > _MANIFEST_LIMIT_BYTES:
        raise StorageError(f"a manifest of {len(manifest)} bytes; at most {_MANIFEST_LIMIT_BYTES} are read")
    found = _decode(manifest, _Manifest, "the manifest")
    for descriptor in (found.config, *(found.layers or ())):
        _digest(descriptor)
        if not 0 <= descriptor.size_bytes <= _SIZE_LIMIT_BYTES:
            raise StorageError(f"the layer {descriptor.digest} claims {descriptor.size_bytes} bytes")
    return found


def _decode(data: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except MALFORMED as error:
        raise StorageError(f"{what} is malformed: {error}", "pull or import the model again") from error


def _digest(descriptor: _Descriptor) -> Digest:
    try:
        return parse_digest(descriptor.digest)
    except CorralError as error:
        raise StorageError(f"the manifest is malformed: {error}") from error


def _layer(descriptor: _Descriptor, layers: Mapping[Digest, bytes], model: str) -> bytes:
    data = layers.get(_digest(descriptor))
    if data is None:
        raise StorageError(
            f"'{model}' is incomplete: the layer {descriptor.digest} ({descriptor.media_type}) is missing",
            "pull or import the model again",
        )
    return data


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _messages(data: bytes, model: str) -> tuple[Message, ...]:
    found = _decode(data, list[_Message], f"the messages of '{model}'")
    return tuple(Message(role=message.role, content=message.content) for message in found)


def _descriptor(media_type: str, data: bytes) -> _Descriptor:
    return _Descriptor(media_type=media_type, digest=digest_of(data), size_bytes=len(data))


def _described(file: ModelFile) -> _Descriptor:
    # A layer may have a name in Ollama's dialect too, but there it is a tensor's or a setting's.
    media_type = file.media_type or _LAYER_PREFIX + _WRITTEN.get("" if file.path else file.role, "")
    if not media_type.startswith(_LAYER_PREFIX) or media_type == _LAYER_PREFIX:
        raise Unsupported(f"an Ollama manifest has no layer for a file of kind {file.role!r} ({file.media_type!r})")
    return _Descriptor(media_type=media_type, digest=file.digest, size_bytes=file.size_bytes, name=file.path)


def _written_texts(record: StoredModel) -> list[tuple[str, bytes]]:
    """Kind and content of each text layer, in the order in which Ollama writes them."""
    texts: list[tuple[str, bytes]] = []
    if record.template is not None:
        if record.template.kind != "go":
            raise Unsupported("an Ollama manifest can hold only Go templates", "keep the Jinja template in the weights")
        texts.append(("template", record.template.text.encode()))
    if record.system is not None:
        texts.append(("system", record.system.encode()))
    if record.parameters:
        texts.append(("params", msgspec.json.encode(record.parameters)))
    if record.messages:
        spoken = [{"role": message.role, "content": message.content} for message in record.messages]
        texts.append(("messages", msgspec.json.encode(spoken)))
    texts.extend(("license", text.encode()) for text in record.licenses)
    return texts


def _config(record: StoredModel, metadata: ModelMetadata | None, diff_ids: Sequence[str]) -> dict[str, Any]:
    family = record.family or (metadata.architecture if metadata else "")
    own = {"remote_replicas": list(record.remote_replicas), "remote_api": record.remote_api}
    optional = {
        "requires": record.requires,
        "renderer": record.renderer,
        "parser": record.parser,
        "remote_host": record.remote_host,
        "remote_model": record.remote_model,
        "capabilities": list(record.capabilities),
        "context_length": record.context_length,
        "embedding_length": record.embedding_length,
        "corral": {key: value for key, value in own.items() if value},
    }
    return {
        "model_format": record.format or (metadata.format if metadata else ""),
        "model_family": family,
        "model_families": list(record.families) or [family] * bool(family),
        "model_type": record.parameter_size,
        "file_type": record.quantization or (metadata.file_type if metadata else ""),
        **{key: value for key, value in optional.items() if value},
        "architecture": "amd64",
        "os": "linux",
        # Ollama ignores it; general container tools want it.
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }


def _plain(descriptor: _Descriptor) -> dict[str, Any]:
    name = {"name": descriptor.name} if descriptor.name else {}
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size_bytes,
        **name,
    }
