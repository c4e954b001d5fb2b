"""The request bodies of llama-server's routes. What a client sends beyond these fields is named to it as ignored."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from corral.api.http.errors import ApiError
from corral.api.http.go_json import UNKNOWN
from corral.api.http.model_body import MOST_INPUTS, MOST_MESSAGES, MOST_TOOLS, ModelBody, require_few

__all__ = ("ApplyTemplateBody", "DetokenizeTokensBody", "InfillBody", "LlamaServerBody", "TokenizeContentBody")


class LlamaServerBody(ModelBody, frozen=True, kw_only=True):
    """The fields of all requests. `options`, `keep_alive` and `engine` are Corral's additions; without a `model`, the
    only one in memory answers.
    """

    keeps_unknown: ClassVar[bool] = True

    engine: str = ""
    unknown: tuple[str, ...] = msgspec.field(default=(), name=UNKNOWN)


class TokenizeContentBody(LlamaServerBody, frozen=True, kw_only=True):
    """``POST /tokenize``. `content` is a text, or a list of texts and token ids."""

    go_name: ClassVar[str] = "TokenizeRequest"

    content: Any = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False

    def check(self) -> None:
        super().check()
        parts = self.content if isinstance(self.content, list) else [self.content]
        require_few("content", parts, MOST_INPUTS)
        if not all(isinstance(part, str | int) and not isinstance(part, bool) for part in parts):
            raise ApiError(400, "content must be a text, or a list of texts and token ids", param="content")


class DetokenizeTokensBody(LlamaServerBody, frozen=True, kw_only=True):
    """``POST /detokenize``."""

    go_name: ClassVar[str] = "DetokenizeRequest"

    tokens: tuple[int, ...] = ()


class ApplyTemplateBody(LlamaServerBody, frozen=True, kw_only=True):
    """``POST /apply-template``: messages and tools as in ``/v1/chat/completions``."""

    go_name: ClassVar[str] = "ApplyTemplateRequest"
    media_fields: ClassVar[frozenset[str]] = frozenset({"messages"})

    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    tool_choice: Any = None
    think: Any = None

    def check(self) -> None:
        super().check()
        if self.messages is None:
            raise ApiError(400, "'messages' is required", param="messages")
        require_few("messages", self.messages, MOST_MESSAGES)
        require_few("tools", self.tools, MOST_TOOLS)


class InfillBody(LlamaServerBody, frozen=True, kw_only=True):
    """``POST /infill``. Sampling options have llama-server's names; those that are not sent are as the model has them.

    `prompt` is the beginning of what is filled in: the answer goes on behind it. `input_extra` are other files, each
    with a `text` and perhaps a `filename`.
    """

    go_name: ClassVar[str] = "InfillRequest"

    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: Any = None
    prompt: str = ""
    stream: bool = False
    n_predict: int | None = None
    max_tokens: int | None = None
    n_keep: int | None = None
    n_probs: int = 0
    t_max_predict_ms: float = 0.0
    response_fields: list[str] = msgspec.field(default_factory=list)
    cache_prompt: bool = True
    grammar: str = ""
    json_schema: Any = None
    seed: int | None = None
    stop: Any = None
    temperature: Any = None
    dynatemp_range: Any = None
    dynatemp_exponent: Any = None
    top_k: Any = None
    top_p: Any = None
    min_p: Any = None
    top_n_sigma: Any = None
    typical_p: Any = None
    xtc_probability: Any = None
    xtc_threshold: Any = None
    repeat_last_n: Any = None
    repeat_penalty: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    dry_multiplier: Any = None
    dry_base: Any = None
    dry_allowed_length: Any = None
    dry_penalty_last_n: Any = None
    dry_sequence_breakers: Any = None
    mirostat: Any = None
    mirostat_tau: Any = None
    mirostat_eta: Any = None
    ignore_eos: Any = None
    logit_bias: Any = None

    def check(self) -> None:
        super().check()
        for name in ("input_prefix", "input_suffix"):
            if getattr(self, name) is None:
                raise ApiError(400, f'"{name}" is required', param=name)
        extra = [] if self.input_extra is None else self.input_extra
        if not isinstance(extra, list):
            raise _wrong('"input_extra" must be an array of {"filename": string, "text": string}')
        require_few("input_extra", extra, MOST_INPUTS)
        for chunk in extra:
            if not isinstance(chunk, dict) or not isinstance(chunk.get("text"), str):
                raise _wrong('extra_context chunk must contain a "text" field with a string value')
            if not isinstance(chunk.get("filename", ""), str):
                raise _wrong('extra_context chunk\'s "filename" field must be a string')


def _wrong(text: str) -> ApiError:
    return ApiError(400, text, param="input_extra")
