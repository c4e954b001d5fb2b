"""Writes the outputs of a generation as Ollama's JSON: a line per chunk, or one object for the whole answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from corral.api.http.dialects import Dialect
from corral.api.http.errors import ApiError
from corral.api.http.ollama.dialect import OLLAMA
from corral.api.http.ollama.replies import (
    ChatReply,
    DebugInfo,
    GenerateReply,
    ReplyMessage,
    logprobs_of,
    tool_calls_of,
)
from corral.api.http.timestamps import utc_now
from corral.core.models.model import StoredModel
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta, Finished, Output, Started, TokenLogprob

__all__ = ("AnswerWriter", "ChatWriter", "GenerateWriter")

ReplyT = TypeVar("ReplyT", GenerateReply, ChatReply)

_encode = msgspec.json.Encoder().encode


class AnswerWriter(Generic[ReplyT]):
    """The answer to one request. `started_ns` is the monotonic time at which the request arrived.

    A chunk with nothing but text, like nearly all, is assembled from bytes that are encoded once per stream.
    """

    dialect: Dialect = OLLAMA
    stream_type = b"application/x-ndjson"
    _before_text: bytes

    def __init__(self, model: str, started_ns: int) -> None:
        self._model = model
        self._started_ns = started_ns
        self._remote: dict[str, Any] = {}
        self._head = _head(model, self._remote)
        self._tail = b',"done":false}\n'
        self._ignored: tuple[str, ...] = ()

    def begin(self, record: StoredModel) -> None:
        """Must be called before anything is written. Every line of an upstream's answer says where it came from."""
        if record.remote:
            self._remote = {"remote_model": record.remote.model, "remote_host": record.remote.host}
            self._head = _head(self._model, self._remote)

    def headers(self) -> list[tuple[bytes, bytes]]:
        return []

    def failed(self, problem: ApiError) -> bytes:
        return OLLAMA.body(problem) + b"\n"

    def part(self, output: Output, load_ns: int) -> bytes | None:
        """The line for `output`, or None if there is none. The last line contains `load_ns`."""
        if isinstance(output, Delta):
            text, plain = output.text, not (output.logprobs or output.thinking or output.tool_calls)
        elif isinstance(output, Finished):
            return _encode(self.reply(done=True, **self._metrics(output, load_ns))) + b"\n"
        else:
            if isinstance(output, Started):
                self._ignored = output.ignored_options
            return None
        if plain:
            if not text:
                return None
            return b"".join((self._head, utc_now().encode(), self._before_text, _encode(text), self._tail))
        return _encode(self.reply(done=False, **_parts((output,)))) + b"\n"

    def whole(self, outputs: list[Output], load_ns: int) -> bytes:
        """The whole answer as one object, without a newline. `outputs` ends with `Finished`."""
        metrics: dict[str, Any] = {}
        for output in outputs:
            if isinstance(output, Started):
                self._ignored = output.ignored_options
            elif isinstance(output, Finished):
                metrics = self._metrics(output, load_ns)
        return _encode(self.reply(done=True, **_parts(outputs), **metrics))

    def empty(self, done_reason: str) -> bytes:
        """The answer, without text, to a request that only loaded or unloaded a model."""
        return _encode(self.reply(done=True, done_reason=done_reason))

    def rendered(self, prompt: str, image_count: int) -> bytes:
        """The answer to a request that only asks for its prompt."""
        return _encode(self.reply(done=False, debug_info=DebugInfo(rendered_template=prompt, image_count=image_count)))

    def reply(
        self,
        *,
        done: bool,
        text: str = "",
        thinking: str = "",
        tool_calls: tuple[ToolCall, ...] = (),
        **fields: Any,
    ) -> ReplyT:
        """Builds the route's own reply; `fields` are those that `GenerateReply` and `ChatReply` share."""
        raise NotImplementedError

    def _metrics(self, finished: Finished, load_ns: int) -> dict[str, Any]:
        usage = finished.usage
        return {
            "done_reason": finished.reason,
            "total_duration": time.monotonic_ns() - self._started_ns,
            "load_duration": load_ns,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": usage.prefill_ns,
            "eval_count": usage.generated_tokens,
            "eval_duration": usage.decode_ns,
            "cached_tokens": usage.cached_tokens,
            "truncated": bool(finished.dropped_messages or finished.dropped_tokens),
            "dropped_messages": finished.dropped_messages,
            "dropped_tokens": finished.dropped_tokens,
            "ignored_options": self._ignored,
            "format_valid": finished.format_valid,
            "format_problem": finished.format_problem,
            "warnings": finished.warnings,
        }


class GenerateWriter(AnswerWriter[GenerateReply]):
    """Answers of ``/api/generate``. If `with_context`, the last chunk contains the ids of prompt and answer."""

    _before_text = b'","response":'

    def __init__(self, model: str, started_ns: int, *, with_context: bool) -> None:
        super().__init__(model, started_ns)
        self._with_context = with_context

    def reply(
        self,
        *,
        done: bool,
        text: str = "",
        thinking: str = "",
        tool_calls: tuple[ToolCall, ...] = (),
        **fields: Any,
    ) -> GenerateReply:
        return GenerateReply(
            model=self._model,
            **self._remote,
            created_at=utc_now(),
            done=done,
            response=text,
            thinking=thinking,
            tool_calls=tool_calls_of(tool_calls),
            **fields,
        )

    def _metrics(self, finished: Finished, load_ns: int) -> dict[str, Any]:
        metrics = super()._metrics(finished, load_ns)
        if self._with_context:
            metrics["context"] = finished.token_ids
        return metrics


class ChatWriter(AnswerWriter[ChatReply]):
    """Answers of ``/api/chat``."""

    _before_text = b'","message":{"role":"assistant","content":'

    def __init__(self, model: str, started_ns: int) -> None:
        super().__init__(model, started_ns)
        self._tail = b'},"done":false}\n'

    def reply(
        self,
        *,
        done: bool,
        text: str = "",
        thinking: str = "",
        tool_calls: tuple[ToolCall, ...] = (),
        **fields: Any,
    ) -> ChatReply:
        message = ReplyMessage(role="assistant", content=text, thinking=thinking, tool_calls=tool_calls_of(tool_calls))
        return ChatReply(model=self._model, **self._remote, created_at=utc_now(), done=done, message=message, **fields)


def _head(model: str, remote: Mapping[str, str]) -> bytes:
    """The start of a line, up to its timestamp."""
    fields = b"".join(b'"' + name.encode() + b'":' + _encode(text) + b"," for name, text in remote.items())
    return b'{"model":' + _encode(model) + b"," + fields + b'"created_at":"'


def _parts(outputs: list[Output] | tuple[Output, ...]) -> dict[str, Any]:
    """The content of the deltas among `outputs`, joined."""
    text: list[str] = []
    thinking: list[str] = []
    tool_calls: list[ToolCall] = []
    logprobs: list[TokenLogprob] = []
    for output in outputs:
        if isinstance(output, Delta):
            text.append(output.text)
            thinking.append(output.thinking)
            tool_calls.extend(output.tool_calls)
            logprobs.extend(output.logprobs)
    return {
        "text": "".join(text),
        "thinking": "".join(thinking),
        "tool_calls": tuple(tool_calls),
        "logprobs": logprobs_of(logprobs),
    }
