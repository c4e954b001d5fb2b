"""The response bodies of Anthropic's routes, with all their keys, in the vendor's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

__all__ = (
    "AnthropicError",
    "AnthropicErrorDetail",
    "AnthropicModel",
    "Block",
    "FetchedDocument",
    "FetchedText",
    "MessageReply",
    "MessageUsage",
    "ModelPage",
    "OutputTokensDetails",
    "ServerToolUsage",
    "ServerToolUseBlock",
    "TextBlock",
    "ThinkingBlock",
    "TokenCount",
    "ToolUseBlock",
    "WebFetchErrorBlock",
    "WebFetchResultBlock",
    "WebFetchToolResultBlock",
    "WebSearchErrorBlock",
    "WebSearchResultBlock",
    "WebSearchToolResultBlock",
)


class AnthropicReply(msgspec.Struct, frozen=True, kw_only=True):
    """Base of responses."""


class AnthropicErrorDetail(AnthropicReply, frozen=True, kw_only=True):
    """What went wrong. `details` are for programs: a code that tells their libraries what to do instead."""

    type: str
    message: str
    details: dict[str, Any] | UnsetType = UNSET


class AnthropicError(AnthropicReply, frozen=True, kw_only=True):
    """What every error is wrapped in; `request_id` is that of the header ``request-id``."""

    type: str = "error"
    error: AnthropicErrorDetail
    request_id: str


class AnthropicModel(AnthropicReply, frozen=True, kw_only=True):
    """A model of the store. `created_at` is when it was last changed."""

    type: str = "model"
    id: str
    display_name: str
    created_at: str
    max_input_tokens: int | None = None
    lifecycle: str = "active"


class ModelPage(AnthropicReply, frozen=True, kw_only=True):
    """All models: there is never another page."""

    data: list[AnthropicModel]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class ThinkingBlock(AnthropicReply, frozen=True, kw_only=True, tag="thinking"):
    """Thinking, which is not signed: the signature is empty."""

    thinking: str
    signature: str = ""


class TextBlock(AnthropicReply, frozen=True, kw_only=True, tag="text"):
    text: str
    citations: None = None


class ToolUseBlock(AnthropicReply, frozen=True, kw_only=True, tag="tool_use"):
    """A call of a tool. `input` are its arguments."""

    id: str
    name: str
    input: Mapping[str, Any]


class ServerToolUseBlock(AnthropicReply, frozen=True, kw_only=True, tag="server_tool_use"):
    """A search that the server makes, or a page that it fetches."""

    id: str
    name: str
    input: Mapping[str, Any]


class WebSearchResultBlock(AnthropicReply, frozen=True, kw_only=True, tag="web_search_result"):
    """A page that was found. `encrypted_content` is the part of its text that the search service shows."""

    url: str
    title: str
    encrypted_content: str
    page_age: None = None


class WebSearchErrorBlock(AnthropicReply, frozen=True, kw_only=True, tag="web_search_tool_result_error"):
    error_code: str


class WebSearchToolResultBlock(AnthropicReply, frozen=True, kw_only=True, tag="web_search_tool_result"):
    """What a search has found, or why it has failed."""

    tool_use_id: str
    content: list[WebSearchResultBlock] | WebSearchErrorBlock


class FetchedText(AnthropicReply, frozen=True, kw_only=True, tag="text"):
    media_type: str = "text/plain"
    data: str


class FetchedDocument(AnthropicReply, frozen=True, kw_only=True, tag="document"):
    source: FetchedText
    title: str | None = None
    citations: None = None


class WebFetchResultBlock(AnthropicReply, frozen=True, kw_only=True, tag="web_fetch_result"):
    """A page, as far as the model has read it."""

    url: str
    content: FetchedDocument
    retrieved_at: str


class WebFetchErrorBlock(AnthropicReply, frozen=True, kw_only=True, tag="web_fetch_tool_result_error"):
    error_code: str


class WebFetchToolResultBlock(AnthropicReply, frozen=True, kw_only=True, tag="web_fetch_tool_result"):
    """A page that was fetched, or why it was not."""

    tool_use_id: str
    content: WebFetchResultBlock | WebFetchErrorBlock


Block = (
    ThinkingBlock | TextBlock | ToolUseBlock | ServerToolUseBlock | WebSearchToolResultBlock | WebFetchToolResultBlock
)


class ServerToolUsage(AnthropicReply, frozen=True, kw_only=True):
    """How many searches the server has made, and how many pages it has fetched. Those that failed do not count."""

    web_search_requests: int = 0
    web_fetch_requests: int = 0


class OutputTokensDetails(AnthropicReply, frozen=True, kw_only=True):
    """`thinking_tokens` are among the output tokens."""

    thinking_tokens: int = 0


class MessageUsage(AnthropicReply, frozen=True, kw_only=True):
    """`input_tokens` are those that were computed, `cache_read_input_tokens` those that were in memory already: their
    sum is the length of the prompt.
    """

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    server_tool_use: ServerToolUsage | msgspec.UnsetType = msgspec.UNSET


class MessageReply(AnthropicReply, frozen=True, kw_only=True):
    """An answer. `corral` says what had no effect, and what was left out; it is missing if there is nothing to say."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: MessageUsage
    corral: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class TokenCount(AnthropicReply, frozen=True, kw_only=True):
    """The length of a prompt, all of it."""

    input_tokens: int
