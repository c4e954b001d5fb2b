"""Writes the outputs of a generation as Anthropic's JSON: events while it comes, or one message at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from corral.api.http.answer_pieces import AnswerPieces
from corral.api.http.anthropic.dialect import ANTHROPIC, new_id
from corral.api.http.anthropic.replies import (
    Block,
    MessageReply,
    MessageUsage,
    OutputTokensDetails,
    ServerToolUsage,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from corral.api.http.anthropic.web_blocks import WebOutput, counted, ended_block, input_of, use_block, web_output
from corral.api.http.dialects import Dialect
from corral.api.http.errors import ApiError
from corral.api.http.remarks import Remarks
from corral.api.http.sse import EVENT_STREAM, event
from corral.api.http.thinking_tokens import ThinkingTokens
from corral.core.generation.web_fetch import FetchBegun
from corral.core.generation.web_search import SearchBegun
from corral.core.models.model import StoredModel
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta, Finished, Output, Started, ToolCallPiece

__all__ = ("MessageWriter",)

_encode = msgspec.json.Encoder().encode
_PING = event(b'{"type":"ping"}', b"ping")
_STOP = event(b'{"type":"message_stop"}', b"message_stop")


class MessageWriter:
    """The answer to one request. `stops` are the stop sequences of the client, `most_tokens` its limit; `uses_web`:
    whether the model may search the web or fetch its pages.
    """

    dialect: Dialect = ANTHROPIC
    stream_type = EVENT_STREAM
    ping = _PING

    def __init__(
        self, model: str, stops: Sequence[str], most_tokens: int, remarks: Remarks, *, uses_web: bool = False
    ) -> None:
        self._id = new_id("msg")
        self._model = model
        self._stops = frozenset(stops)
        self._most_tokens = most_tokens
        self._remarks = remarks
        self._open = ""
        self._count = 0
        self._before_text = b""
        self._begun = self._completed = 0  # calls
        self._pieces = AnswerPieces()
        self._thinking = ThinkingTokens()
        self._web = ServerToolUsage() if uses_web else None

    def begin(self, record: StoredModel) -> None:
        pass

    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._remarks.headers()

    def failed(self, problem: ApiError) -> bytes:
        return event(ANTHROPIC.body(problem), b"error")

    # ── Events ────────────────────────────────────────────────────────────────────────────────────────────────────

    def part(self, output: Output, load_ns: int) -> bytes | None:
        if isinstance(output, Delta):
            self._thinking.hear(output)
            self._completed += len(output.tool_calls)
            if self._open == "text" and not (output.thinking or output.tool_call_pieces):
                return self._more_text(output.text) if output.text else None
            return b"".join(self._delta(output)) or None
        if isinstance(output, Started):
            self._remarks.started(output)
            return self._begin(output)
        if (used := web_output(output)) is not None:
            return b"".join(self._use_of_web(used))
        return self._end(output) if isinstance(output, Finished) else None

    def _begin(self, started: Started) -> bytes:
        usage = _usage(started.prompt_tokens or 0, started.cached_tokens, 0)
        message = MessageReply(id=self._id, model=self._model, content=[], usage=usage)
        return event(_encode({"type": "message_start", "message": message}), b"message_start") + _PING

    def _delta(self, delta: Delta) -> list[bytes]:
        parts: list[bytes] = []
        for kind, more in self._pieces.of(delta, delta.tool_call_pieces):
            if isinstance(more, ToolCallPiece):
                if more.name:
                    self._begun += 1
                    parts += self._next(kind, _call_block(more, {}))
                if more.arguments:
                    parts.append(self._more_input(more.arguments))
            elif kind == "text":
                if self._open != kind:
                    parts += self._next(kind, TextBlock(text=""))
                    at = b'{"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":' % self._place
                    self._before_text = b"event: content_block_delta\ndata: " + at
                parts.append(self._more_text(more))
            else:
                if self._open != kind:
                    parts += self._next(kind, ThinkingBlock(thinking=""))
                parts.append(self._more({"type": "thinking_delta", "thinking": more}))
        return parts

    def _use_of_web(self, output: WebOutput) -> list[bytes]:
        self._pieces.interrupted()
        if isinstance(output, SearchBegun | FetchBegun):
            begun = self._next("server_tool_use", use_block(output, {}))
            return [*begun, self._more_input(_encode(input_of(output)).decode()), *self._closed()]
        self._web = counted(self._web or ServerToolUsage(), output)
        return [*self._next("result", ended_block(output)), *self._closed()]

    @property
    def _place(self) -> int:
        return self._count - 1

    def _next(self, kind: str, block: Block) -> list[bytes]:
        """End the block that is open, and begin another."""
        parts = self._closed()
        self._open = kind
        self._count += 1
        start = {"type": "content_block_start", "index": self._place, "content_block": block}
        return [*parts, event(_encode(start), b"content_block_start")]

    def _closed(self) -> list[bytes]:
        if not self._open:
            return []
        self._open = ""
        return [event(_encode({"type": "content_block_stop", "index": self._place}), b"content_block_stop")]

    def _more(self, delta: dict[str, Any]) -> bytes:
        more = {"type": "content_block_delta", "index": self._place, "delta": delta}
        return event(_encode(more), b"content_block_delta")

    def _more_input(self, text: str) -> bytes:
        return self._more({"type": "input_json_delta", "partial_json": text})

    def _more_text(self, text: str) -> bytes:
        return b"".join((self._before_text, _encode(text), b"}}\n\n"))

    def _end(self, finished: Finished) -> bytes:
        reason, stop = self._reason(finished, self._begun, self._completed)
        end: dict[str, Any] = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": stop},
            "usage": self._usage(finished),
        }
        if told := self._remarks.of(finished):
            end["corral"] = told
        return b"".join((*self._closed(), event(_encode(end), b"message_delta"), _STOP))

    # ── The whole ─────────────────────────────────────────────────────────────────────────────────────────────────

    def whole(self, outputs: list[Output], load_ns: int) -> bytes:
        blocks: list[Block] = []
        kind, texts = "", list[str]()

        def close() -> None:
            if texts:
                joined = "".join(texts)
                blocks.append(TextBlock(text=joined) if kind == "text" else ThinkingBlock(thinking=joined))
                texts.clear()

        for output in outputs:
            if isinstance(output, Started):
                self._remarks.started(output)
            if (used := web_output(output)) is not None:
                close()
                kind = ""
                self._pieces.interrupted()
                if isinstance(used, SearchBegun | FetchBegun):
                    blocks.append(use_block(used, input_of(used)))
                else:
                    self._web = counted(self._web or ServerToolUsage(), used)
                    blocks.append(ended_block(used))
            if not isinstance(output, Delta):
                continue
            self._thinking.hear(output)
            for own, more in self._pieces.of(output, output.tool_calls):
                if own != kind:
                    close()
                kind = own
                if isinstance(more, ToolCall):
                    blocks.append(_call_block(more, more.arguments))
                else:
                    texts.append(more)
        close()
        finished = outputs[-1]
        assert isinstance(finished, Finished)
        calls = sum(isinstance(block, ToolUseBlock) for block in blocks)
        reason, stop = self._reason(finished, calls, calls)
        told = self._remarks.of(finished)
        return _encode(
            MessageReply(
                id=self._id,
                model=self._model,
                content=blocks,
                stop_reason=reason,
                stop_sequence=stop,
                usage=self._usage(finished),
                corral=told or msgspec.UNSET,
            )
        )

    def _usage(self, finished: Finished) -> MessageUsage:
        usage = finished.usage
        tokens = _usage(usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens, self._thinking.count)
        return tokens if self._web is None else msgspec.structs.replace(tokens, server_tool_use=self._web)

    def _reason(self, finished: Finished, begun: int, completed: int) -> tuple[str, str | None]:
        if completed and begun == completed:
            return "tool_use", None
        if finished.reason == "length":
            full = finished.usage.generated_tokens < self._most_tokens
            return "model_context_window_exceeded" if full else "max_tokens", None
        if finished.stop in self._stops:
            return "stop_sequence", finished.stop
        return "end_turn", None


def _call_block(call: ToolCall | ToolCallPiece, arguments: Any) -> ToolUseBlock:
    return ToolUseBlock(id=call.id or new_id("toolu"), name=call.name, input=arguments)


def _usage(prompt: int, cached: int, generated: int, thinking: int = 0) -> MessageUsage:
    return MessageUsage(
        input_tokens=prompt - cached,
        cache_read_input_tokens=cached,
        output_tokens=generated,
        output_tokens_details=OutputTokensDetails(thinking_tokens=thinking),
    )
