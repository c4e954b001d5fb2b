"""The body of a request for a response, and what of it has no effect."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from corral.api.http.errors import ApiError
from corral.api.http.model_body import MOST_MESSAGES, MOST_TOOLS, require_few
from corral.api.http.openai.answering import MOST_TOP_LOGPROBS
from corral.api.http.openai.bodies import OpenAIBody
from corral.api.http.openai.responses.known_fields import ignored_inside

__all__ = ("ENCRYPTED_REASONING", "LOGPROBS", "SEARCH_SOURCES", "ResponseBody")

ENCRYPTED_REASONING = "reasoning.encrypted_content"
SEARCH_SOURCES = "web_search_call.action.sources"
LOGPROBS = "message.output_text.logprobs"

_INCLUDED = (
    ENCRYPTED_REASONING,
    LOGPROBS,
    SEARCH_SOURCES,
    "web_search_call.results",
    "message.input_image.image_url",
)
"""What `include` may ask for, and gets."""

_MOST_METADATA, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512


class ResponseBody(OpenAIBody, frozen=True, kw_only=True):
    """``POST /v1/responses``."""

    go_name: ClassVar[str] = "ResponsesRequest"
    media_fields: ClassVar[frozenset[str]] = frozenset({"input"})

    input: Any = None
    instructions: str | None = None
    previous_response_id: str | None = None
    stream: bool = False
    store: bool | None = None
    background: bool = False
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    text: dict[str, Any] = msgspec.field(default_factory=dict)
    reasoning: dict[str, Any] = msgspec.field(default_factory=dict)
    tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    truncation: str = "disabled"
    include: list[str] = msgspec.field(default_factory=list)
    max_tool_calls: int | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    stream_options: dict[str, Any] = msgspec.field(default_factory=dict)

    def check(self) -> None:
        super().check()
        if isinstance(self.input, list):
            require_few("input", self.input, MOST_MESSAGES)
        require_few("tools", self.tools, MOST_TOOLS)
        if self.truncation not in ("auto", "disabled"):
            text = f'truncation is "{self.truncation}"; use "auto" or "disabled"'
            raise ApiError(400, text, param="truncation")
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise ApiError(400, "max_output_tokens must be at least 1", param="max_output_tokens")
        if self.max_tool_calls is not None and self.max_tool_calls < 1:
            raise ApiError(400, "max_tool_calls must be at least 1", param="max_tool_calls")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MOST_TOP_LOGPROBS:
            raise ApiError(400, f"top_logprobs must be between 0 and {MOST_TOP_LOGPROBS}", param="top_logprobs")
        require_few("metadata", self.metadata, _MOST_METADATA)
        for key, value in self.metadata.items():
            if len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE:
                text = f"metadata: keys have at most {_LONGEST_KEY} characters, values {_LONGEST_VALUE}"
                raise ApiError(400, text, param="metadata")

    @property
    def in_background(self) -> bool:
        return self.background

    @property
    def logprobs(self) -> int | None:
        """How many alternatives to report beside each token; None for no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.top_logprobs or LOGPROBS in self.include else None

    @property
    def ignored(self) -> tuple[str, ...]:
        """The names of what has no effect, also inside of fields that have."""
        included = (f"include.{name}" for name in self.include if name not in _INCLUDED)
        return (*self.unknown, *ignored_inside(self), *included)
