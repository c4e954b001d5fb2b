"""CNCF ModelPack, as OCI image manifests: models of several files, each a raw layer with its path.

Source: github.com/modelpack/model-spec. What the config has no place for (chat template, system text, parameters) is
kept in files of the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from corral.adapters.formats.modelpack_paths import (
    GO_TEMPLATE,
    MESSAGES,
    PARAMS,
    SYSTEM,
    TEMPLATE,
    files_with_paths,
    layer_kind,
    role_of,
)
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
from corral.core.errors import InvalidModelFile, StorageError, Unsupported
from corral.core.models.digests import Digest, digest_of
from corral.core.models.folder_facts import FACT_FILES, folder_facts
from corral.core.models.model import FileRole, Model, ModelFile, TemplateText
from corral.core.models.names import ModelName
from corral.core.models.paths import check_together
from corral.core.ports.manifests import ManifestBlob

__all__ = ("ModelPackFormat",)

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
_LAYER_PREFIX = "application/vnd.cncf.model."
_RAW_SUFFIX = ".v1.raw"
_PATH = "org.cncf.model.filepath"
_UNTESTED = "org.cncf.model.file.mediatype.untested"

_TEXT_LIMIT_BYTES = 16 * 1024 * 1024


class _Layer(AnnotatedDescriptor, frozen=True):
    @property
    def path(self) -> str | None:
        return (self.annotations or {}).get(_PATH)

    @property
    def role(self) -> FileRole:
        kind = self.media_type.removeprefix(_LAYER_PREFIX).partition(".v1")[0]
        return role_of(kind, self.path or "")

    @property
    def is_text(self) -> bool:
        return self.path in (*FACT_FILES, GO_TEMPLATE) or self.role in ("system", "params", "messages", "license")


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    config: _Layer
    layers: list[_Layer]
    artifact_type: str = ""


class _About(msgspec.Struct, frozen=True):
    family: Word = ""


class _Kind(msgspec.Struct, frozen=True, rename="camel"):
    format: Word = ""
    param_size: Word = ""
    quantization: Word = ""
    precision: Word = ""


class _Corral(msgspec.Struct, frozen=True, rename="camel"):
    """What Corral adds, under a key of its own. `ranks`: a reranker by its graph, though no file of it says so."""

    converted_from: Word | None = None
    joined_from: list[Word] = []
    ranks: bool = False


class _Config(msgspec.Struct, frozen=True):
    """What is read from the config blob."""

    config: _Kind
    descriptor: _About = _About()
    corral: _Corral = _Corral()


class ModelPackFormat:
    """Reads and writes models whose layers are raw files. Archives (tar) are refused with their media type."""

    @property
    def name(self) -> str:
        return "modelpack"

    def recognises(self, manifest: bytes) -> bool:
        try:
            found = decode(manifest, _Manifest, "the manifest")
        except StorageError:
            return False
        return found.artifact_type == _ARTIFACT_TYPE or found.config.media_type == _CONFIG_TYPE

    def blobs(self, manifest: bytes) -> tuple[ManifestBlob, ...]:
        found = _parse(manifest)
        named = (_blob(found.config, is_text=True), *(_blob(layer, is_text=layer.is_text) for layer in found.layers))
        for blob in named:
            if blob.is_text and blob.size_bytes > _TEXT_LIMIT_BYTES:
                raise StorageError(
                    f"the layer {blob.digest} ({blob.path or 'config'}) claims {blob.size_bytes} bytes; "
                    f"a model's text file may have at most {_TEXT_LIMIT_BYTES}"
                )
        return named

    def read(self, manifest: bytes, texts: Mapping[Digest, bytes]) -> Model:
        found = _parse(manifest)
        config = decode(_content(found.config, texts), _Config, "the config")
        files = {layer.path or "": _content(layer, texts) for layer in found.layers if layer.is_text}
        try:
            facts = folder_facts(files)
        except InvalidModelFile as error:
            raise StorageError(error.message, error.remedy) from error
        family = config.descriptor.family or facts.family
        return Model(
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
                    digest=layer.parsed_digest,
                    size_bytes=layer.size_bytes,
                    path=layer.path,
                    scale=layer.scale,
                )
                for layer in found.layers
            ),
            template=_go_template(files) or facts.template,
            system=files[SYSTEM].decode("utf-8", "replace") if SYSTEM in files else None,
            parameters=decode(files.get(PARAMS, b"{}"), dict[str, Any], PARAMS),
            messages=decode_messages(files.get(MESSAGES, b"[]"), MESSAGES),
            licenses=tuple(
                files[layer.path or ""].decode("utf-8", "replace") for layer in found.layers if layer.role == "license"
            ),
            capabilities=("rerank",) if config.corral.ranks else facts.capabilities,
            converted_from=digest_or_none(config.corral.converted_from),
            joined_from=digests_among(config.corral.joined_from),
        )

    def write(self, name: ModelName, model: Model) -> tuple[bytes, tuple[bytes, ...]]:
        """A text that the model has is written as its file; the other files stay as they are.

        Raises `Unsupported` for a file that needs a path and for an upstream, `StorageError` for a hostile path.
        """
        if model.remote is not None:
            raise Unsupported("a ModelPack manifest cannot describe an upstream model")
        texts, licenses = _written_texts(model), _written_licenses(model)
        layers = [_described(file) for file in files_with_paths(model) if file.path not in texts]
        layers += [
            _described_text(f"{_LAYER_PREFIX}weight.config{_RAW_SUFFIX}", data, path) for path, data in texts.items()
        ]
        layers += [_described_text(f"{_LAYER_PREFIX}doc{_RAW_SUFFIX}", data, path) for path, data in licenses.items()]
        check_together(layer.path or "" for layer in layers)
        config = msgspec.json.encode(_config(name, model, [layer.digest for layer in layers]))
        manifest = encode_manifest(
            _described_text(_CONFIG_TYPE, config), layers, media_type=_MANIFEST_TYPE, artifact_type=_ARTIFACT_TYPE
        )
        return manifest, (config, *texts.values(), *licenses.values())


def _parse(manifest: bytes) -> _Manifest:
    found = decode_manifest(manifest, _Manifest)
    check_descriptors((found.config, *found.layers))
    for layer in found.layers:
        if not (layer.media_type.startswith(_LAYER_PREFIX) and layer.media_type.endswith(_RAW_SUFFIX)):
            raise StorageError(
                f"the layer {layer.digest} is of type {layer.media_type!r}; only raw layers are supported",
                "pack the model again with raw layers",
            )
    check_together(layer.path for layer in found.layers if layer.path is not None)
    return found


def _blob(layer: _Layer, *, is_text: bool) -> ManifestBlob:
    return ManifestBlob(digest=layer.parsed_digest, size_bytes=layer.size_bytes, path=layer.path, is_text=is_text)


def _content(layer: _Layer, texts: Mapping[Digest, bytes]) -> bytes:
    return layer_content(layer, texts, layer.path or "config")


def _described_text(media_type: str, data: bytes, path: str | None = None) -> _Layer:
    annotations = None if path is None else {_PATH: path, _UNTESTED: "false"}
    return _Layer(media_type=media_type, digest=digest_of(data), size_bytes=len(data), annotations=annotations)


def _described(file: ModelFile) -> _Layer:
    return _Layer(
        media_type=f"{_LAYER_PREFIX}{layer_kind(file)}{_RAW_SUFFIX}",
        digest=file.digest,
        size_bytes=file.size_bytes,
        annotations=annotations_of(file, {_PATH: file.path or "", _UNTESTED: "false"}),
    )


def _written_texts(model: Model) -> dict[str, bytes]:
    texts: dict[str, bytes] = {}
    if model.template is not None:
        file = {"jinja": TEMPLATE, "go": GO_TEMPLATE}.get(model.template.kind)
        if file is None:
            raise Unsupported(f"a ModelPack manifest has no file for a {model.template.kind} template")
        texts[file] = model.template.text.encode()
    if model.system is not None:
        texts[SYSTEM] = model.system.encode()
    if model.parameters:
        texts[PARAMS] = msgspec.json.encode(model.parameters)
    if model.messages:
        texts[MESSAGES] = encode_messages(model.messages)
    return texts


def _go_template(files: Mapping[str, bytes]) -> TemplateText | None:
    data = files.get(GO_TEMPLATE)
    return None if data is None else TemplateText(kind="go", text=data.decode("utf-8", "replace"))


def _written_licenses(model: Model) -> dict[str, bytes]:
    """Licenses that are not among the model's files: those of a model that was converted from another format."""
    if model.files_of("license"):
        return {}
    return {
        f"LICENSE.{number}" if number > 1 else "LICENSE": text.encode() for number, text in enumerate(model.licenses, 1)
    }


def _config(name: ModelName, model: Model, diff_ids: list[str]) -> dict[str, Any]:
    known = {
        "architecture": "transformer",
        "format": model.format,
        "paramSize": re.sub(r"(\.\d)\d+", r"\1", model.parameter_size),  # one digit, by the specification
        "quantization": model.quantization,
    }
    about = {"name": name.model, "family": model.family}
    own = {
        "convertedFrom": model.converted_from,
        "joinedFrom": list(model.joined_from),
        "ranks": "rerank" in model.capabilities,
    }
    kept = {key: value for key, value in own.items() if value}
    return ({"corral": kept} if kept else {}) | {
        "descriptor": {key: text for key, text in about.items() if text},
        "config": {key: text for key, text in known.items() if text},
        "modelfs": {"type": "layers", "diffIds": diff_ids},
    }
