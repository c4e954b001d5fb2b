"""CNCF ModelPack, as OCI image manifests: models of several files, each a raw layer with its path.

Source: github.com/modelpack/model-spec. What the config has no place for (chat template, system text, parameters)
stands in files of the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

import msgspec

from corral.core.errors import CorralError, InvalidModelFile, StorageError, Unsupported
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, digest_of, parse_digest
from corral.core.models.folder_facts import FACT_FILES, folder_facts
from corral.core.models.model import FileRole, ModelFile, ModelMetadata, StoredModel
from corral.core.models.paths import check_together
from corral.core.ports.manifests import StoredManifest
from corral.core.requests.messages import Message

__all__ = ("ModelPackFormat",)

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
_LAYER_PREFIX = "application/vnd.cncf.model."
_RAW_SUFFIX = ".v1.raw"
_PATH = "org.cncf.model.filepath"
_UNTESTED = "org.cncf.model.file.mediatype.untested"

_TEMPLATE, _SYSTEM, _PARAMS, _MESSAGES = "chat_template.jinja", "system.txt", "params.json", "messages.json"
_TEXT_FILES: Mapping[str, FileRole] = {
    _TEMPLATE: "template",
    _SYSTEM: "system",
    _PARAMS: "params",
    _MESSAGES: "messages",
}
_KINDS: Mapping[FileRole, str] = {
    "weights": "weight",
    "projector": "weight",
    "adapter": "weight",
    "draft": "weight",
    "license": "doc",
    "other": "doc",
}
_ADAPTER_SUFFIX = ".onnx_adapter"
_LICENSE_STEMS = ("license", "licence", "copying")

_MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024
_TEXT_LIMIT_BYTES = 16 * 1024 * 1024
_SIZE_LIMIT_BYTES = 1 << 46  # of a layer; what all layers of a manifest claim together stays below 64 bits

T = TypeVar("T")


class _Descriptor(msgspec.Struct, frozen=True, rename={"media_type": "mediaType", "size_bytes": "size"}):
    media_type: str
    digest: str
    size_bytes: int
    annotations: dict[str, str] | None = None

    @property
    def path(self) -> str | None:
        return (self.annotations or {}).get(_PATH)

    @property
    def role(self) -> FileRole:
        path = self.path or ""
        kind = self.media_type.removeprefix(_LAYER_PREFIX).partition(".v1")[0]
        if kind == "weight":
            return "adapter" if path.endswith(_ADAPTER_SUFFIX) else "weights"
        if kind == "weight.config":
            return _TEXT_FILES.get(path, "config")
        stem = PurePosixPath(path).name.lower().partition(".")[0]
        return "license" if kind == "doc" and stem in _LICENSE_STEMS else "other"


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    config: _Descriptor
    layers: list[_Descriptor]
    artifact_type: str = ""


_Word = Annotated[str, msgspec.Meta(max_length=256)]


class _Model(msgspec.Struct, frozen=True, rename="camel"):
    format: _Word = ""
    param_size: _Word = ""
    quantization: _Word = ""
    precision: _Word = ""


class _About(msgspec.Struct, frozen=True):
    family: _Word = ""


class _Config(msgspec.Struct, frozen=True):
    """What is read of the config blob."""

    config: _Model
    descriptor: _About = _About()


class _Message(msgspec.Struct, frozen=True):
    role: str
    content: str = ""


class ModelPackFormat:
    """Reads and writes models whose layers are raw files; archives (tar) are refused by name."""

    @property
    def name(self) -> str:
        return "modelpack"

    def recognises(self, manifest: bytes) -> bool:
        try:
            found = _decode(manifest, _Manifest, "the manifest")
        except StorageError:
            return False
        return found.artifact_type == _ARTIFACT_TYPE or found.config.media_type == _CONFIG_TYPE

    def small_layers(self, manifest: bytes) -> list[Digest]:
        found = _parse(manifest)
        wanted = [found.config, *(layer for layer in found.layers if _is_text(layer))]
        for descriptor in wanted:
            if descriptor.size_bytes > _TEXT_LIMIT_BYTES:
                raise StorageError(
                    f"the layer {descriptor.digest} ({descriptor.path or 'config'}) claims {descriptor.size_bytes} "
                    f"bytes; a model's text file may have at most {_TEXT_LIMIT_BYTES}"
                )
        return list(dict.fromkeys(parse_digest(descriptor.digest) for descriptor in wanted))

    def read(self, stored: StoredManifest, layers: dict[Digest, bytes]) -> StoredModel:
        found = _parse(stored.data)
        model = str(stored.name)
        config = _decode(_content(found.config, layers, model), _Config, f"the config of '{model}'")
        texts = {layer.path or "": _content(layer, layers, model) for layer in found.layers if _is_text(layer)}
        try:
            facts = folder_facts(texts)
        except InvalidModelFile as error:
            raise StorageError(f"'{model}': {error.message}", error.remedy) from error
        family = config.descriptor.family or facts.family
        messages = _decode(texts.get(_MESSAGES, b"[]"), list[_Message], f"{_MESSAGES} of '{model}'")
        return StoredModel(
            name=stored.name,
            digest=stored.digest,
            size_bytes=found.config.size_bytes + sum(layer.size_bytes for layer in found.layers),
            modified_at=stored.modified_at,
            format=config.config.format,
            family=family,
            families=(family,) if family else (),
            parameter_size=config.config.param_size,
            quantization=config.config.quantization or config.config.precision,
            context_length=facts.context_length,
            embedding_length=facts.embedding_length,
            files=tuple(
                ModelFile(
                    role=layer.role,
                    media_type=layer.media_type,
                    digest=parse_digest(layer.digest),
                    size_bytes=layer.size_bytes,
                    path=layer.path,
                )
                for layer in found.layers
            ),
            template=facts.template,
            system=texts[_SYSTEM].decode("utf-8", "replace") if _SYSTEM in texts else None,
            parameters=_decode(texts.get(_PARAMS, b"{}"), dict[str, Any], f"{_PARAMS} of '{model}'"),
            messages=tuple(Message(role=message.role, content=message.content) for message in messages),
            licenses=tuple(
                texts[layer.path or ""].decode("utf-8", "replace") for layer in found.layers if layer.role == "license"
            ),
            capabilities=facts.capabilities,
        )

    def write(self, record: StoredModel, metadata: ModelMetadata | None) -> tuple[bytes, list[bytes]]:
        """A text that the record has is written as its file; the other files stay as they are.

        Raises `Unsupported` for a file without a path and for an upstream, `StorageError` for a hostile path.
        """
        if record.remote_model is not None:
            raise Unsupported("a ModelPack manifest cannot describe an upstream model")
        texts = _written_texts(record)
        layers = [_described(file) for file in record.files if file.path not in texts]
        layers += [
            _descriptor(f"{_LAYER_PREFIX}weight.config{_RAW_SUFFIX}", data, path) for path, data in texts.items()
        ]
        check_together(layer.path or "" for layer in layers)
        config = msgspec.json.encode(_config(record, metadata, [layer.digest for layer in layers]))
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "artifactType": _ARTIFACT_TYPE,
            "config": _plain(_descriptor(_CONFIG_TYPE, config)),
            "layers": [_plain(layer) for layer in layers],
        }
        return msgspec.json.encode(manifest) + b"\n", [config, *texts.values()]


def _parse(manifest: bytes) -> _Manifest:
    if len(manifest) > _MANIFEST_LIMIT_BYTES:
        raise StorageError(f"a manifest of {len(manifest)} bytes; at most {_MANIFEST_LIMIT_BYTES} are read")
    found = _decode(manifest, _Manifest, "the manifest")
    for descriptor in (found.config, *found.layers):
        try:
            parse_digest(descriptor.digest)
        except CorralError as error:
            raise StorageError(f"the manifest is malformed: {error}") from error
        if not 0 <= descriptor.size_bytes <= _SIZE_LIMIT_BYTES:
            raise StorageError(f"the layer {descriptor.digest} claims {descriptor.size_bytes} bytes")
    for layer in found.layers:
        if not (layer.media_type.startswith(_LAYER_PREFIX) and layer.media_type.endswith(_RAW_SUFFIX)):
            raise StorageError(
                f"the layer {layer.digest} is of type {layer.media_type!r}; only raw layers are supported",
                "pack the model again with raw layers",
            )
    check_together(layer.path for layer in found.layers if layer.path is not None)
    return found


def _is_text(layer: _Descriptor) -> bool:
    return layer.path in FACT_FILES or layer.role in ("system", "params", "messages", "license")


def _decode(data: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except MALFORMED as error:
        raise StorageError(f"{what} is malformed: {error}", "pull or import the model again") from error


def _content(descriptor: _Descriptor, layers: Mapping[Digest, bytes], model: str) -> bytes:
    data = layers.get(parse_digest(descriptor.digest))
    if data is None:
        raise StorageError(
            f"'{model}' is incomplete: the layer {descriptor.digest} ({descriptor.path or 'config'}) is missing",
            "pull or import the model again",
        )
    return data


def _descriptor(media_type: str, data: bytes, path: str | None = None) -> _Descriptor:
    annotations = None if path is None else {_PATH: path, _UNTESTED: "false"}
    return _Descriptor(media_type, digest_of(data), len(data), annotations)


def _described(file: ModelFile) -> _Descriptor:
    if file.path is None:
        raise Unsupported(f"a ModelPack manifest needs a path for the file {file.digest}")
    media_type = f"{_LAYER_PREFIX}{_KINDS.get(file.role, 'weight.config')}{_RAW_SUFFIX}"
    return _Descriptor(media_type, file.digest, file.size_bytes, {_PATH: file.path, _UNTESTED: "false"})


def _written_texts(record: StoredModel) -> dict[str, bytes]:
    texts: dict[str, bytes] = {}
    if record.template is not None:
        if record.template.kind != "jinja":
            raise Unsupported("a ModelPack manifest can hold only Jinja templates")
        texts[_TEMPLATE] = record.template.text.encode()
    if record.system is not None:
        texts[_SYSTEM] = record.system.encode()
    if record.parameters:
        texts[_PARAMS] = msgspec.json.encode(record.parameters)
    if record.messages:
        spoken = [{"role": message.role, "content": message.content} for message in record.messages]
        texts[_MESSAGES] = msgspec.json.encode(spoken)
    return texts


def _config(record: StoredModel, metadata: ModelMetadata | None, diff_ids: list[str]) -> dict[str, Any]:
    known = {
        "architecture": "transformer",
        "format": record.format,
        "paramSize": re.sub(r"(\.\d)\d+", r"\1", record.parameter_size),  # one digit, by the specification
        "quantization": record.quantization,
    }
    family = record.family or (metadata.architecture if metadata else "")
    about = {"name": record.name.model, "family": family}
    return {
        "descriptor": {key: text for key, text in about.items() if text},
        "config": {key: text for key, text in known.items() if text},
        "modelfs": {"type": "layers", "diffIds": diff_ids},
    }


def _plain(descriptor: _Descriptor) -> dict[str, Any]:
    annotations = {"annotations": descriptor.annotations} if descriptor.annotations else {}
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size_bytes,
        **annotations,
    }
