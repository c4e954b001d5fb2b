"""The request bodies of llama-server's routes. What a client sends beyond these fields is named to it as ignored."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import msgspec

from corral.api.http.errors import ApiError
from corral.api.http.go_json import UNKNOWN
from corral.api.http.model_body import MOST_INPUTS, MOST_MESSAGES, MOST_TOOLS, ModelBody, require_few
from corral.core.requests.options import OPTIONS

__all__ = (
    "SAMPLING",
    "ApplyTemplateBody",
    "DetokenizeTokensBody",
    "InfillBody",
    "InfillFields",
    "LlamaServerBody",
    "TokenizeContentBody",
)


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


class InfillFields(LlamaServerBody, frozen=True, kw_only=True):
    """The fields of ``/infill`` that are no options of sampling.

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


SAMPLING = tuple(name for name, row in OPTIONS.items() if row.scope == "sampling" and name != "num_predict")
"""The options that have llama-server's names in Corral's table. The other one is `n_predict` there."""

InfillBody = cast(
    "type[InfillFields]",
    msgspec.defstruct(
        "InfillBody",
        [(name, Any, None) for name in SAMPLING],
        bases=(InfillFields,),
        namespace={"__doc__": "``POST /infill``. Options that are not sent are as the model has them."},
        module=__name__,
        frozen=True,
        kw_only=True,
    ),
)


def _wrong(text: str) -> ApiError:
    return ApiError(400, text, param="input_extra")
