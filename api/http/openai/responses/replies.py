"""Responses and their items, with all their keys, in the vendor's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from corral.api.http.openai.replies import CachedTokens, ErrorDetail, OpenAIReply, ReasoningTokens, TokenEntry
from corral.core.requests.outputs import Usage

__all__ = (
    "DeletedResponse",
    "FunctionCallItem",
    "IncompleteDetails",
    "InputItemList",
    "InputTokens",
    "ItemStatus",
    "MessageItem",
    "OutputItem",
    "OutputText",
    "ReasoningItem",
    "ResponseFailure",
    "ResponseReply",
    "ResponseStatus",
    "ResponseUsage",
    "SearchAction",
    "SearchSource",
    "SummaryText",
    "UrlCitation",
    "WebSearchItem",
    "WebSearchResult",
)

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class UrlCitation(OpenAIReply, frozen=True, kw_only=True, tag_field="type", tag="url_citation"):
    """Where a text names a page that a search has found, counted in characters."""

    start_index: int
    end_index: int
    title: str
    url: str


class OutputText(OpenAIReply, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    text: str
    annotations: tuple[UrlCitation, ...] = ()
    logprobs: tuple[TokenEntry, ...] = ()


class SummaryText(OpenAIReply, frozen=True, kw_only=True, tag_field="type", tag="summary_text"):
    text: str


class MessageItem(OpenAIReply, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    status: ItemStatus
    role: str = "assistant"
    content: tuple[OutputText, ...] = ()


class ReasoningItem(OpenAIReply, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """What the model has thought, as one summary. `encrypted_content` is the same text, if the client wants it."""

    id: str
    status: ItemStatus
    summary: tuple[SummaryText, ...] = ()
    encrypted_content: str | None = None


class FunctionCallItem(OpenAIReply, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    namespace: str | UnsetType = UNSET


class SearchSource(OpenAIReply, frozen=True, kw_only=True, tag_field="type", tag="url"):
    url: str


class SearchAction(OpenAIReply, frozen=True, kw_only=True, tag_field="type", tag="search"):
    query: str
    queries: tuple[str, ...]
    sources: tuple[SearchSource, ...] | UnsetType = UNSET


class WebSearchResult(OpenAIReply, frozen=True, kw_only=True):
    """A page that was found. `text` is the part of it that the search service shows."""

    url: str
    title: str
    text: str


class WebSearchItem(OpenAIReply, frozen=True, kw_only=True, tag_field="type", tag="web_search_call"):
    """A search that the server has made. `results` are what the model has read, so that it still knows them when the
    conversation goes on."""

    id: str
    status: Literal["in_progress", "completed", "failed"]
    action: SearchAction
    results: tuple[WebSearchResult, ...] = ()


OutputItem = MessageItem | ReasoningItem | FunctionCallItem | WebSearchItem


class InputTokensDetails(CachedTokens, frozen=True, kw_only=True):
    cache_write_tokens: int = 0


class ResponseUsage(OpenAIReply, frozen=True, kw_only=True):
    """What a response cost, in tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage, reasoning_tokens: int) -> ResponseUsage:
        return cls(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
            output_tokens=usage.generated_tokens,
            output_tokens_details=ReasoningTokens(reasoning_tokens=reasoning_tokens),
            total_tokens=usage.prompt_tokens + usage.generated_tokens,
        )


class IncompleteDetails(OpenAIReply, frozen=True, kw_only=True):
    reason: str = "max_output_tokens"


class ResponseFailure(OpenAIReply, frozen=True, kw_only=True):
    """Why a response failed. `code` is one of the vendor's, `type` that of the error anywhere else in this API."""

    code: str
    message: str
    type: str
    param: str | None = None

    @classmethod
    def of(cls, detail: ErrorDetail, status: int) -> ResponseFailure:
        code = {400: "invalid_prompt", 429: "rate_limit_exceeded"}.get(status, "server_error")
        return cls(code=code, message=detail.message, type=detail.type, param=detail.param)


class ResponseReply(OpenAIReply, frozen=True, kw_only=True):
    """A response, finished or not. Times are in seconds since 1970. `corral` is what Corral has to add."""

    id: str
    object: str = "response"
    created_at: int
    status: ResponseStatus
    background: bool = False
    completed_at: int | None = None
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: Mapping[str, str] = {}
    model: str
    output: tuple[OutputItem, ...] = ()
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    reasoning: Mapping[str, Any] = {}
    service_tier: str = "default"
    store: bool
    temperature: float = 1.0
    text: Mapping[str, Any] = {}
    tool_choice: Any = "auto"
    tools: tuple[Mapping[str, Any], ...] = ()
    top_logprobs: int = 0
    top_p: float = 1.0
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    corral: Mapping[str, Any] | UnsetType = UNSET


class DeletedResponse(OpenAIReply, frozen=True, kw_only=True):
    id: str
    object: str = "response"
    deleted: bool = True


class InputTokens(OpenAIReply, frozen=True, kw_only=True):
    object: str = "response.input_tokens"
    input_tokens: int


class InputItemList(OpenAIReply, frozen=True, kw_only=True):
    """What a response was made from, a page of it."""

    object: str = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
