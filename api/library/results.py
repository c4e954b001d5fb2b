"""What the library returns: whole results, chunks, and the streams that chunks come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from corral.core.catalog.catalog import ModelCatalog
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.models.names import ModelName
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Finished, FinishReason, TokenLogprob, Usage
from corral.core.values import Value

__all__ = (
    "Answer",
    "AnswerMessage",
    "ChatResult",
    "Chunk",
    "Embeddings",
    "GenerateResult",
    "ModelDetails",
    "ToolResult",
    "answer_message",
    "chat_result",
    "generate_result",
    "model_details",
    "result_message",
)


class ToolResult(Value, frozen=True, kw_only=True):
    """What came of a call: the `text` that the model gets, which is an error's message if the call has `failed`."""

    call: ToolCall
    text: str
    failed: bool = False


class Chunk(Value, frozen=True, kw_only=True):
    """A piece of an answer: visible text, thinking, complete tool calls, or what came of calls that were made."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Answer(Value, frozen=True, kw_only=True):
    """What all answers have in common. `load_ns` is the time spent waiting for the model; `total_ns` includes it.

    `ignored_options` are the options of the request that had no effect. `dropped_messages` and `dropped_tokens` were
    left out because the context was full. `format_valid`: whether the text fits the JSON
    Schema that was its `format`, and `format_problem` what is wrong if not; None without a schema, or if it could not
    be checked: then `format_problem` says why.
    `warnings` say what was wrong with the text, such as a malformed tool call.
    """

    model: str
    engine: str
    finish_reason: FinishReason
    usage: Usage
    load_ns: int
    total_ns: int
    logprobs: tuple[TokenLogprob, ...] = ()
    ignored_options: tuple[str, ...] = ()
    format_valid: bool | None = None
    format_problem: str = ""
    dropped_messages: int = 0
    dropped_tokens: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def truncated(self) -> bool:
        """Whether anything was left out."""
        return bool(self.dropped_messages or self.dropped_tokens)


class AnswerMessage(dict[str, Any]):
    """A model's turn as a message of a conversation. Keys without a value are left out.

    It is a dict, so that it can be appended to a list of messages and written as JSON.
    """

    @property
    def role(self) -> str:
        return str(self["role"])

    @property
    def content(self) -> str:
        return str(self["content"])

    @property
    def thinking(self) -> str | None:
        thinking: str | None = self.get("thinking")
        return thinking

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return msgspec.convert(self.get("tool_calls", ()), tuple[ToolCall, ...])


class ChatResult(Answer, frozen=True, kw_only=True):
    """The answer to a chat. `message` can be appended to the conversation as it is.

    `messages` are all that the conversation has got since: with ``run_tools``, also the calls and their results.
    """

    message: AnswerMessage
    earlier: tuple[AnswerMessage, ...] = ()

    @property
    def text(self) -> str:
        return self.message.content

    @property
    def messages(self) -> tuple[AnswerMessage, ...]:
        return (*self.earlier, self.message)

    @property
    def thinking(self) -> str | None:
        return self.message.thinking


class GenerateResult(Answer, frozen=True, kw_only=True):
    """The answer to a prompt. `context` are the token ids of both, to continue them; empty if the prompt was raw."""

    text: str
    thinking: str | None = None
    context: tuple[int, ...] = ()


class Embeddings(Value, frozen=True, kw_only=True):
    """One vector per input, in order. `ignored_options` are the options of the request that had no effect."""

    model: str
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage
    load_ns: int
    total_ns: int
    ignored_options: tuple[str, ...] = ()


class ModelDetails(Value, frozen=True, kw_only=True):
    """A model as its manifest and its weights describe it. `metadata` is None if the weights cannot be read.

    `template` is the chat template that it uses, empty if it has none.
    """

    record: StoredModel
    metadata: ModelMetadata | None
    capabilities: tuple[str, ...]
    template: str = ""


async def model_details(catalog: ModelCatalog, name: ModelName) -> ModelDetails:
    """Raises `ModelNotFound`."""
    record = await catalog.get(name)
    metadata = await catalog.readable_metadata(record)
    capabilities = await catalog.capabilities(record)
    template = catalog.template(record, metadata)
    return ModelDetails(record=record, metadata=metadata, capabilities=capabilities, template=template)


A = TypeVar("A", bound=Answer)


def chat_result(chunks: Sequence[Chunk], finished: Finished, common: Mapping[str, Any]) -> ChatResult:
    """The chunks of a chat, joined."""
    return ChatResult(message=answer_message(chunks), **common)


def answer_message(chunks: Sequence[Chunk]) -> AnswerMessage:
    """What the model said and which calls it asked for, as a message."""
    message = AnswerMessage(role="assistant", content="".join(chunk.text for chunk in chunks))
    if thinking := "".join(chunk.thinking for chunk in chunks):
        message["thinking"] = thinking
    if calls := [call for chunk in chunks for call in chunk.tool_calls]:
        message["tool_calls"] = [msgspec.to_builtins(msgspec.structs.asdict(call)) for call in calls]
    return message


def result_message(result: ToolResult) -> AnswerMessage:
    """The result of a call, as a message to the model."""
    call = result.call
    return AnswerMessage(role="tool", content=result.text, tool_name=call.name, tool_call_id=call.id)


def generate_result(chunks: Sequence[Chunk], finished: Finished, common: Mapping[str, Any]) -> GenerateResult:
    """The chunks of a plain answer, joined."""
    thinking = "".join(chunk.thinking for chunk in chunks) or None
    text = "".join(chunk.text for chunk in chunks)
    return GenerateResult(text=text, thinking=thinking, context=finished.token_ids, **common)
