"""What a model is, in whatever format its manifest is written: `Model`, its files, its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from corral.core.models.digests import Digest
from corral.core.models.names import ModelName
from corral.core.requests.messages import Message
from corral.core.values import Value

__all__ = (
    "FileRole",
    "Model",
    "ModelFile",
    "ModelMetadata",
    "RemoteModel",
    "StoredModel",
    "TemplateText",
    "parameter_size_text",
)


def parameter_size_text(count: int) -> str:
    """A number of parameters, as Ollama writes it: ``8.0B``, ``134.52M``, ``22K``."""
    for unit, size, digits in (("T", 10**12, 1), ("B", 10**9, 1), ("M", 10**6, 2)):
        if count >= size:
            return f"{count / size:.{0 if count % size == 0 else digits}f}{unit}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


FileRole = Literal[
    "weights", "projector", "adapter", "draft", "config", "template", "system", "params", "messages", "license", "other"
]


class ModelFile(Value, frozen=True, kw_only=True):
    """One layer. `path` is the file's name inside a folder model; None if the format names no files. `scale` is how
    strongly an adapter is applied."""

    role: FileRole
    media_type: str
    digest: Digest
    size_bytes: int
    path: str | None = None
    scale: float = 1.0


class TemplateText(Value, frozen=True, kw_only=True):
    """A chat template, and the tokens that it may refer to, empty if they are those of the weights.

    `kind` is its language: ``go``, ``jinja``, or one that a plugin compiles. `tools_text` is the template of
    conversations with tools, if the model has a separate one.
    """

    kind: str
    text: str
    bos_text: str = ""
    eos_text: str = ""
    tools_text: str = ""


class RemoteModel(Value, frozen=True, kw_only=True):
    """A model on another server: the server's address, and the model's name there.

    Corral adds `replicas`, further addresses of the same model, and `api`, what they speak (None: found out when the
    model is loaded).
    """

    host: str
    model: str
    replicas: tuple[str, ...] = ()
    api: str | None = None


class Model(Value, frozen=True, kw_only=True):
    """What a model is, wherever it is kept: its files, and what its manifest says about it.

    `parameters` are the PARAMETER values (JSON types). `parameter_size` ("8.0B") and `quantization` ("Q4_K_M") are as
    the manifest has them, empty if it has none; `base_name` is that of the model that it was made from. `renderer`
    and `parser` name the parts of Ollama's program that write and read the model's chats there.
    An upstream model has `remote`, and no weights. `converted_from` is the digest of the weights that these were made
    from, by a conversion or quantization; `joined_from` are those of the parts that they came in.
    """

    format: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization: str = ""
    context_length: int | None = None
    embedding_length: int | None = None
    base_name: str = ""
    files: tuple[ModelFile, ...] = ()
    template: TemplateText | None = None
    system: str | None = None
    parameters: Mapping[str, Any] = {}
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    requires: str | None = None
    renderer: str | None = None
    parser: str | None = None
    remote: RemoteModel | None = None
    converted_from: Digest | None = None
    joined_from: tuple[Digest, ...] = ()

    def files_of(self, role: FileRole) -> tuple[ModelFile, ...]:
        return tuple(file for file in self.files if file.role == role)

    @property
    def loaded_files(self) -> tuple[ModelFile, ...]:
        """The files that an engine opens, weights first. If there are several weights without paths, the last one is
        used, as in Ollama.
        """
        files = [file for file in self.files if file.role in ("projector", "adapter", "draft") or file.path]
        if self.weights is not None and self.weights not in files:
            files.insert(0, self.weights)
        return tuple(sorted(files, key=lambda file: file.role != "weights"))

    @property
    def weights(self) -> ModelFile | None:
        """The weights; if a manifest has several, the last one, as in Ollama. None for an upstream."""
        found = self.files_of("weights")
        return found[-1] if found else None


class StoredModel(Model, frozen=True, kw_only=True):
    """A model under a name in a store.

    `name` has the spelling found in the store; `digest` is that of the manifest's bytes; `size_bytes` is the sum of
    layers and config; `modified_at` is seconds since the epoch.
    """

    name: ModelName
    digest: Digest
    size_bytes: int
    modified_at: float

    def content(self) -> Model:
        """The model without what only the store knows, to write a new manifest from it."""
        return Model(**{field: getattr(self, field) for field in Model.__struct_fields__})


class ModelMetadata(Value, frozen=True, kw_only=True):
    """What the header of a weights file says, read without native code.

    `architecture` is GGUF's ``general.architecture``; `file_type` the quantization name ("Q4_1"); `tensor_types` counts
    bytes by tensor type name; `keys` are the header's key-values with arrays left out (see `MetadataReader`).
    `kv_bytes_per_token` is the f16 KV cache's size for one token over all layers, None if unknown.
    `format_version` is the file format's own (GGUF's 2 or 3), None if it has none. `fim_ids` are the tokens before the
    prefix, the suffix and the middle of a text that the model fills in, None if it cannot. `repository_ids` are those
    before the name of a repository and before each of its files, None if such a model does not know both.
    """

    format: str
    architecture: str
    file_type: str
    parameter_count: int
    tensor_bytes: int
    tensor_types: Mapping[str, int] = {}
    block_count: int = 0
    context_length: int | None = None
    embedding_length: int | None = None
    vocabulary_size: int | None = None
    kv_bytes_per_token: int | None = None
    sliding_window: int | None = None
    pooling: str | None = None
    chat_template: str | None = None
    tools_template: str | None = None
    bos_text: str = ""
    eos_text: str = ""
    fim_ids: tuple[int, int, int] | None = None
    repository_ids: tuple[int, int] | None = None
    name: str = ""
    format_version: int | None = None
    keys: Mapping[str, Any] = {}
