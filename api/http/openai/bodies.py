"""The request bodies of OpenAI's routes. What a client sends beyond these fields has no effect, and is named to it."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from corral.api.http.errors import ApiError
from corral.api.http.go_json import UNKNOWN
from corral.api.http.model_body import MOST_INPUTS, MOST_MESSAGES, MOST_TOOLS, ModelBody, require_few

__all__ = ("MOST_CHOICES", "AnswerBody", "ChatCompletionBody", "CompletionBody", "OpenAIBody", "OpenAIEmbeddingBody")

MOST_CHOICES = 128


class OpenAIBody(ModelBody, frozen=True, kw_only=True):
    """The fields of all requests. `options`, `keep_alive` and `engine` are Corral's additions."""

    keeps_unknown: ClassVar[bool] = True

    engine: str = ""
    unknown: tuple[str, ...] = msgspec.field(default=(), name=UNKNOWN)


class AnswerBody(OpenAIBody, frozen=True, kw_only=True):
    """The fields of both kinds of completions."""

    stream: bool = False
    stream_options: dict[str, Any] = msgspec.field(default_factory=dict)
    max_tokens: int | None = None
    seed: int | None = None
    stop: Any = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] = msgspec.field(default_factory=dict)
    n: int = 1

    def check(self) -> None:
        super().check()
        if not 1 <= self.n <= MOST_CHOICES:
            raise ApiError(400, f"n must be between 1 and {MOST_CHOICES}, not {self.n}", param="n")


class ChatCompletionBody(AnswerBody, frozen=True, kw_only=True):
    """``POST /v1/chat/completions``."""

    go_name: ClassVar[str] = "ChatCompletionRequest"
    media_fields: ClassVar[frozenset[str]] = frozenset({"messages"})

    messages: list[dict[str, Any]] = msgspec.field(default_factory=list)
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    reasoning: dict[str, Any] = msgspec.field(default_factory=dict)
    modalities: list[str] = msgspec.field(default_factory=list)
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")

    def check(self) -> None:
        super().check()
        require_few("messages", self.messages, MOST_MESSAGES)
        require_few("tools", self.tools, MOST_TOOLS)
        for name in self.modalities:
            if name != "text":
                raise ApiError(400, f'modalities: "{name}" is not supported; answers are text', param="modalities")


class CompletionBody(AnswerBody, frozen=True, kw_only=True):
    """``POST /v1/completions``. `raw` is Corral's addition: the prompt goes to the model without its template."""

    go_name: ClassVar[str] = "CompletionRequest"

    prompt: Any = None
    suffix: str = ""
    echo: bool = False
    logprobs: int | None = None
    raw: bool = False


class OpenAIEmbeddingBody(OpenAIBody, frozen=True, kw_only=True):
    """``POST /v1/embeddings``."""

    go_name: ClassVar[str] = "EmbedRequest"

    input: Any = None
    dimensions: int = 0
    encoding_format: str = "float"

    def check(self) -> None:
        super().check()
        if isinstance(self.input, list) and self.input and not isinstance(self.input[0], int):
            require_few("input", self.input, MOST_INPUTS)
