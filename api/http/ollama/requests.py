"""The request bodies of Ollama's native routes, named as Ollama names its structs: the names appear in error texts."""

from __future__ import annotations

from typing import Any

import msgspec

from corral.api.http.go_json import Body
from corral.core import messages as core

__all__ = (
    "ChatRequest",
    "CopyRequest",
    "DeleteRequest",
    "EmbedRequest",
    "EmbeddingRequest",
    "GenerateRequest",
    "Message",
    "ShowRequest",
    "Tool",
)


class ToolCallFunction(msgspec.Struct, frozen=True, kw_only=True):
    name: str = ""
    arguments: dict[str, Any] = {}
    index: int = 0


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    id: str = ""
    function: ToolCallFunction = ToolCallFunction()


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: str = ""
    content: str = ""
    thinking: str = ""
    images: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""

    def to_core(self) -> core.Message:
        return core.Message(
            role=self.role.lower(),
            content=self.content,
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


class ToolFunction(msgspec.Struct, frozen=True, kw_only=True):
    name: str = ""
    description: str = ""
    parameters: dict[str, Any] = {}


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may ask for."""

    type: str = ""
    function: ToolFunction = ToolFunction()

    def to_core(self) -> core.Tool:
        return core.Tool(
            name=self.function.name, description=self.function.description, parameters=self.function.parameters
        )


class InferenceBody(Body, frozen=True, kw_only=True):
    """What generate and chat have in common. `truncate` is taken for Ollama's sake (see docs/compatibility.md)."""

    model: str = ""
    stream: bool = True
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    keep_alive: Any = None
    format: Any = None
    think: Any = None
    truncate: bool = True
    shift: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0


class GenerateRequest(InferenceBody, frozen=True, kw_only=True):
    """``POST /api/generate``."""

    prompt: str = ""
    system: str = ""
    raw: bool = False
    suffix: str = ""
    template: str = ""
    context: tuple[int, ...] = ()
    images: tuple[str, ...] = ()


class ChatRequest(InferenceBody, frozen=True, kw_only=True):
    """``POST /api/chat``."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()


class EmbedRequest(Body, frozen=True, kw_only=True):
    """``POST /api/embed``. `input` is a text or a list of texts."""

    model: str = ""
    input: Any = None
    truncate: bool = True
    dimensions: int = 0
    keep_alive: Any = None
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class EmbeddingRequest(Body, frozen=True, kw_only=True):
    """``POST /api/embeddings``, the older form."""

    model: str = ""
    prompt: str = ""
    keep_alive: Any = None
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class NamedBody(Body, frozen=True, kw_only=True):
    """A request about one model; `name` is what older clients call `model`."""

    model: str = ""
    name: str = ""

    @property
    def subject(self) -> str:
        return self.model or self.name


class ShowRequest(NamedBody, frozen=True, kw_only=True):
    """``POST /api/show``. `system` and `options` show in the modelfile's text only."""

    verbose: bool = False
    system: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class DeleteRequest(NamedBody, frozen=True, kw_only=True):
    """``DELETE /api/delete``."""


class CopyRequest(Body, frozen=True, kw_only=True):
    """``POST /api/copy``."""

    source: str = ""
    destination: str = ""
