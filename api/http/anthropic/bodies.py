"""The request bodies of Anthropic's routes. What a client sends beyond these fields is named to it as ignored."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from corral.api.http.errors import ApiError
from corral.api.http.go_json import UNKNOWN
from corral.api.http.model_body import MOST_MESSAGES, MOST_TOOLS, ModelBody, require_few

__all__ = ("THREAD_UNSUPPORTED", "CountTokensBody", "MessagesBody")

THREAD_UNSUPPORTED = "thread_unsupported_request"
"""The code by which clients know that they have to send whole conversations."""


class CountTokensBody(ModelBody, frozen=True, kw_only=True):
    """``POST /v1/messages/count_tokens``. `options`, `keep_alive` and `engine` are Corral's additions."""

    go_name: ClassVar[str] = "MessagesRequest"
    media_fields: ClassVar[frozenset[str]] = frozenset({"messages"})
    keeps_unknown: ClassVar[bool] = True

    messages: tuple[dict[str, Any], ...] = ()
    system: Any = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] = msgspec.field(default_factory=dict)
    cache_control: dict[str, Any] | None = None
    engine: str = ""
    unknown: tuple[str, ...] = msgspec.field(default=(), name=UNKNOWN)

    def check(self) -> None:
        super().check()
        require_few("messages", self.messages, MOST_MESSAGES)
        require_few("tools", self.tools, MOST_TOOLS)

    def require_messages(self) -> None:
        """Raises `ApiError` if there is nothing to answer."""
        if not self.messages:
            raise ApiError(400, "messages is required", param="messages")


class MessagesBody(CountTokensBody, frozen=True, kw_only=True):
    """``POST /v1/messages``."""

    max_tokens: int = 0
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: tuple[str, ...] = ()
    thread: dict[str, Any] | None = None
    compaction: dict[str, Any] | None = None

    def require_messages(self) -> None:
        if self.compaction is not None:
            raise ApiError(400, "compaction is not supported; ask for a summary instead", param="compaction")
        if self.thread is not None:  # ignoring it would lose all that the client believes to be kept here
            raise ApiError(
                400,
                "thread: conversations are not kept on this server; send all messages, without thread",
                code=THREAD_UNSUPPORTED,
                param="thread",
            )
        if self.max_tokens <= 0:
            raise ApiError(400, "max_tokens is required and must be positive", param="max_tokens")
        super().require_messages()
