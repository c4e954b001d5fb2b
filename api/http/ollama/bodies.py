"""The request bodies of Ollama's native routes. `go_name`, `go_types` and `decodes_itself` shape its error texts."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from corral.api.http.errors import ApiError
from corral.api.http.model_body import MOST_INPUTS, MOST_MESSAGES, MOST_TOOLS, LimitedBody, ModelBody, require_few
from corral.core.requests import messages as core

__all__ = (
    "ChatBody",
    "CopyBody",
    "DeleteBody",
    "EmbedBody",
    "EmbeddingBody",
    "GenerateBody",
    "GoTypes",
    "MessageBody",
    "ShowBody",
    "ToolBody",
    "decoded_images",
)


_LEGAL = re.compile(r"[A-Za-z0-9+/\r\n]*")
_LINE_BREAKS = re.compile(r"[\r\n]*")


GoTypes = Mapping[str, tuple[str, str]]
"""Fields whose types have names of their own in Go: that of the field, and that of its elements."""

_GO_IMAGES = ("[]api.ImageData", "api.ImageData")


class ToolCallFunctionBody(msgspec.Struct, frozen=True, kw_only=True):
    go_name: ClassVar[str] = "ToolCallFunction"
    name: str = ""
    arguments: dict[str, Any] = {}
    index: int = 0


class ToolCallBody(msgspec.Struct, frozen=True, kw_only=True):
    go_name: ClassVar[str] = "ToolCall"
    id: str = ""
    function: ToolCallFunctionBody = ToolCallFunctionBody()


class MessageBody(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation."""

    go_name: ClassVar[str] = "Message"
    go_types: ClassVar[GoTypes] = {"images": _GO_IMAGES}
    decodes_itself: ClassVar[bool] = True

    role: str = ""
    content: str = ""
    thinking: str = ""
    images: tuple[str, ...] = ()
    tool_calls: tuple[ToolCallBody, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""

    def to_core(self) -> core.Message:
        return core.Message(
            role=self.role.lower(),
            content=self.content,
            images=decoded_images(self.images),
            thinking=self.thinking or None,
            tool_calls=tuple(
                core.ToolCall(
                    name=call.function.name,
                    arguments=call.function.arguments,
                    id=call.id or None,
                    index=call.function.index,
                )
                for call in self.tool_calls
            ),
            tool_name=self.tool_name or None,
            tool_call_id=self.tool_call_id or None,
        )


class ToolFunctionBody(msgspec.Struct, frozen=True, kw_only=True):
    go_name: ClassVar[str] = "ToolFunction"
    go_types: ClassVar[GoTypes] = {"parameters": ("api.ToolFunctionParameters", "")}
    name: str = ""
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool = False


class ToolBody(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call. `strict` is Corral's addition, as in OpenAI's API."""

    go_name: ClassVar[str] = "Tool"

    type: str = ""
    function: ToolFunctionBody = ToolFunctionBody()

    def to_core(self) -> core.Tool:
        return core.Tool(
            name=self.function.name,
            description=self.function.description,
            parameters=self.function.parameters,
            strict=self.function.strict,
        )


class InferenceBody(ModelBody, frozen=True, kw_only=True):
    """The fields that generate and chat share."""

    stream: bool = True
    format: Any = None
    think: Any = None
    truncate: bool = True
    shift: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")


class GenerateBody(InferenceBody, frozen=True, kw_only=True):
    """``POST /api/generate``."""

    go_name: ClassVar[str] = "GenerateRequest"
    go_types: ClassVar[GoTypes] = {"images": _GO_IMAGES}

    prompt: str = ""
    system: str = ""
    raw: bool = False
    suffix: str = ""
    template: str = ""
    context: tuple[int, ...] = ()
    images: tuple[str, ...] = ()


class ChatBody(InferenceBody, frozen=True, kw_only=True):
    """``POST /api/chat``. `tool_choice` is Corral's addition, as in OpenAI's API."""

    go_name: ClassVar[str] = "ChatRequest"
    go_types: ClassVar[GoTypes] = {"messages": ("[]api.Message", "api.Alias"), "tools": ("api.Tools", "api.Tool")}

    messages: tuple[MessageBody, ...] = ()
    tools: tuple[ToolBody, ...] = ()
    tool_choice: Any = None

    def check(self) -> None:
        super().check()
        require_few("messages", self.messages, MOST_MESSAGES)
        require_few("tools", self.tools, MOST_TOOLS)


class EmbedBody(ModelBody, frozen=True, kw_only=True):
    """``POST /api/embed``. `input` is a text or a list of texts."""

    go_name: ClassVar[str] = "EmbedRequest"

    input: Any = None
    truncate: bool = True
    dimensions: int = 0

    def check(self) -> None:
        super().check()
        if isinstance(self.input, list):
            require_few("input", self.input, MOST_INPUTS)


class EmbeddingBody(ModelBody, frozen=True, kw_only=True):
    """``POST /api/embeddings``, the older form."""

    go_name: ClassVar[str] = "EmbeddingRequest"

    prompt: str = ""


class NamedBody(LimitedBody, frozen=True, kw_only=True):
    """A request about one model; `name` is what older clients call `model`."""

    max_body_bytes: ClassVar[int | None] = 64 * 1024

    model: str = ""
    name: str = ""

    @property
    def subject(self) -> str:
        return self.model or self.name


class ShowBody(NamedBody, frozen=True, kw_only=True):
    """``POST /api/show``. `system` and `options` only affect the modelfile's text; `template` nothing."""

    go_name: ClassVar[str] = "ShowRequest"

    max_body_bytes: ClassVar[int | None] = 1024 * 1024

    verbose: bool = False
    system: str = ""
    template: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class DeleteBody(NamedBody, frozen=True, kw_only=True):
    """``DELETE /api/delete``."""

    go_name: ClassVar[str] = "DeleteRequest"


class CopyBody(LimitedBody, frozen=True, kw_only=True):
    """``POST /api/copy``."""

    go_name: ClassVar[str] = "CopyRequest"

    max_body_bytes: ClassVar[int | None] = 64 * 1024

    source: str = ""
    destination: str = ""


def decoded_images(encoded: tuple[str, ...]) -> tuple[bytes, ...]:
    """Decodes files that clients send as base64; line breaks do not count, as in Go. Raises `ApiError` with the text of
    Go's decoder.
    """
    return tuple(map(_decoded, encoded)) if encoded else ()


def _decoded(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        at = _illegal_byte(text)
    if at is None:
        return binascii.a2b_base64(text.replace("\r", "").replace("\n", ""))
    raise ApiError(400, f"illegal base64 data at input byte {at}")


def _illegal_byte(text: str) -> int | None:
    """The place that Go's decoder names for a text that is no base64; None for one that is, with line breaks."""
    legal = _end(_LEGAL, text, 0)
    count = legal - text.count("\r", 0, legal) - text.count("\n", 0, legal)
    if legal == len(text):
        return legal - count % 4 if count % 4 else None
    if text[legal] != "=" or count % 4 < 2:
        return legal
    at = _end(_LINE_BREAKS, text, legal + 1)
    if count % 4 == 2:
        if at == len(text):
            return at
        if text[at] != "=":
            return at - 1
        at = _end(_LINE_BREAKS, text, at + 1)
    return at if at < len(text) else None


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where a match that begins at `start` ends. The pattern matches the empty text too."""
    found = pattern.match(text, start)
    return found.end() if found else start
