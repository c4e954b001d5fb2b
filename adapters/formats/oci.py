"""What Ollama's and ModelPack's manifests have in common: OCI descriptors, limits on what they claim, text layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from corral.core.errors import CorralError, StorageError
from corral.core.go.json_encoding import encode_json
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, parse_digest
from corral.core.models.model import ModelFile
from corral.core.requests.messages import Message, ToolCall

__all__ = (
    "AnnotatedDescriptor",
    "Descriptor",
    "Word",
    "annotations_of",
    "check_descriptors",
    "decode",
    "decode_manifest",
    "decode_messages",
    "digest_or_none",
    "digests_among",
    "encode_manifest",
    "encode_messages",
    "layer_content",
)

_MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024
_SIZE_LIMIT_BYTES = 1 << 46  # of a layer, so that the sum of all layers of a manifest stays below 64 bits
_PULL_AGAIN = "pull or import the model again"
_SCALE = "corral.adapter.scale"

T = TypeVar("T")

Word = Annotated[str, msgspec.Meta(max_length=256)]
"""A short text of a config. It has a limit because lists of models show it."""


class Descriptor(msgspec.Struct, frozen=True, rename={"media_type": "mediaType", "size_bytes": "size"}):
    """How a manifest names a blob. A subclass adds the fields of its dialect; other fields are ignored."""

    media_type: str
    digest: str
    size_bytes: int

    @property
    def parsed_digest(self) -> Digest:
        """Raises `StorageError` if the digest is malformed."""
        try:
            return parse_digest(self.digest)
        except CorralError as error:
            raise StorageError(f"the manifest is malformed: {error}") from error


class AnnotatedDescriptor(Descriptor, frozen=True):
    """A descriptor that says more of its blob, under names of its dialect, and the scale of an adapter under ours."""

    annotations: dict[str, str] | None = None

    @property
    def scale(self) -> float:
        """How strongly an adapter is applied, 1 if that is not said. Raises `StorageError` if it is no number."""
        text = (self.annotations or {}).get(_SCALE, "1")
        try:
            scale = float(text)
        except ValueError:
            scale = math.nan
        if not math.isfinite(scale):
            raise StorageError(f"the manifest is malformed: {_SCALE} is {text[:40]!r}, not a number", _PULL_AGAIN)
        return scale


def annotations_of(file: ModelFile, more: Mapping[str, str | None] = {}) -> dict[str, str] | None:
    """What the descriptor of a file is annotated with; `more` are those of the dialect. None if there is nothing."""
    said = {**more, **({_SCALE: f"{file.scale!r}"} if file.scale != 1 else {})}
    return {name: text for name, text in said.items() if text is not None} or None


class _CalledFunction(msgspec.Struct, frozen=True):
    index: int = 0
    name: str = ""
    arguments: dict[str, Any] = {}


class _ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str | None = None
    function: _CalledFunction = _CalledFunction()


class _Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message as Ollama's API has it."""

    role: str
    content: str | None = ""
    thinking: str | None = None
    images: tuple[bytes, ...] | None = None
    tool_calls: tuple[_ToolCall, ...] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None

    def to_core(self) -> Message:
        return Message(
            role=self.role,
            content=self.content or "",
            thinking=self.thinking,
            images=self.images or (),
            tool_calls=tuple(
                ToolCall(
                    name=call.function.name, arguments=call.function.arguments, id=call.id, index=call.function.index
                )
                for call in self.tool_calls or ()
            ),
            tool_name=self.tool_name,
            tool_call_id=self.tool_call_id,
        )


def decode(data: bytes, kind: type[T], what: str) -> T:
    """JSON from a manifest or one of its layers; `what` names it in the error. Raises `StorageError`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except MALFORMED as error:
        raise StorageError(f"{what} is malformed: {error}", _PULL_AGAIN) from error


def decode_manifest(manifest: bytes, kind: type[T]) -> T:
    """As `decode`, and also refuses a manifest that is too large to be one."""
    if len(manifest) > _MANIFEST_LIMIT_BYTES:
        raise StorageError(f"a manifest of {len(manifest)} bytes; at most {_MANIFEST_LIMIT_BYTES} are read")
    return decode(manifest, kind, "the manifest")


def digest_or_none(text: str | None) -> Digest | None:
    """A digest in a config; None if there is none, or it is malformed."""
    try:
        return parse_digest(text) if text else None
    except CorralError:
        return None


def digests_among(texts: Iterable[str]) -> tuple[Digest, ...]:
    """The digests in a config; malformed ones are left out."""
    return tuple(found for text in texts if (found := digest_or_none(text)) is not None)


def check_descriptors(descriptors: Iterable[Descriptor]) -> None:
    """Raises `StorageError` for a malformed digest, and for a size that no layer can have."""
    for descriptor in descriptors:
        _ = descriptor.parsed_digest
        if not 0 <= descriptor.size_bytes <= _SIZE_LIMIT_BYTES:
            raise StorageError(f"the layer {descriptor.digest} claims {descriptor.size_bytes} bytes")


def layer_content(descriptor: Descriptor, texts: Mapping[Digest, bytes], kind: str) -> bytes:
    """The bytes of a small layer. Raises `StorageError` if the store has lost them; `kind` says what they were."""
    data = texts.get(descriptor.parsed_digest)
    if data is None:
        raise StorageError(f"incomplete: the layer {descriptor.digest} ({kind}) is missing", _PULL_AGAIN)
    return data


def decode_messages(data: bytes, what: str) -> tuple[Message, ...]:
    """The messages that a model begins each chat with. Raises `StorageError`."""
    return tuple(one.to_core() for one in decode(data, list[_Message], what))


def encode_messages(messages: Sequence[Message]) -> bytes:
    """What `decode_messages` reads."""
    return encode_json([_plain_message(message) for message in messages])


def _plain_message(message: Message) -> dict[str, Any]:
    calls = tuple(
        _ToolCall(id=call.id or None, function=_CalledFunction(call.index, call.name, dict(call.arguments)))
        for call in message.tool_calls
    )
    plain: dict[str, Any] = msgspec.to_builtins(
        _Message(
            role=message.role,
            thinking=message.thinking or None,
            images=message.images or None,
            tool_calls=calls or None,
            tool_name=message.tool_name,
            tool_call_id=message.tool_call_id,
        )
    )
    return {"role": plain.pop("role"), "content": message.content, **plain}


def encode_manifest(
    config: Descriptor, layers: Sequence[Descriptor], *, media_type: str, artifact_type: str | None = None
) -> bytes:
    """The bytes of a manifest, ending in a line feed as Ollama's do. Fields that are None or empty are left out."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        **({} if artifact_type is None else {"artifactType": artifact_type}),
        "config": _plain(config),
        "layers": [_plain(layer) for layer in layers],
    }
    return msgspec.json.encode(manifest) + b"\n"


def _plain(descriptor: Descriptor) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(descriptor).items() if value not in (None, "", {})}
