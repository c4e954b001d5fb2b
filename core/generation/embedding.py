"""Embeds lists of texts in groups, so that other requests get their turn and little is in memory at once."""

from __future__ import annotations

from contextlib import aclosing

from corral.core.errors import EngineError, PromptTooLong
from corral.core.generation.early_length_check import require_room
from corral.core.generation.grouping import groups_of
from corral.core.ports.running import RunningModel
from corral.core.requests.calls import EmbedCall
from corral.core.requests.outputs import Embedded, Vectors
from corral.core.requests.prompts import TextPart, TokensPart
from corral.core.requests.requests import EmbedRequest

__all__ = ("embed_texts",)

_TINY_CONTEXT = 16
"""Tokens; the ones that models add to every text fit into any larger context."""

_MUST_NOT_BE_CUT = "the input length exceeds the context length"
_CANNOT_BE_CUT = "input exceeds maximum context length and cannot be truncated further"
_NOTHING_LEFT = "input after truncation exceeds maximum context length"


async def embed_texts(model: RunningModel, call: EmbedCall, num_ctx: int | None) -> Embedded:
    """One vector for each of the call's inputs, in order.

    Raises `PromptTooLong`, with Ollama's texts, for an input that must not be cut, if the engine does not accept it
    although it may be cut, and if the model's own tokens alone fill the context.
    """
    if num_ctx is not None and num_ctx < 1:
        raise PromptTooLong(_NOTHING_LEFT, "raise num_ctx")
    most = model.info.most_tokens(num_ctx)
    if most is not None and most < _TINY_CONTEXT and "tokenize" in model.info.features:
        [added] = await model.tokenize([(TextPart(text=""),)])
        if len(added) >= most:
            raise PromptTooLong(_NOTHING_LEFT, "raise num_ctx")
    vectors, prompt_tokens, dimensions = bytearray(), 0, 0
    try:
        if not call.truncate:
            for text in call.inputs:
                require_room(model.info, len(text) if isinstance(text, str) else 0, most)
        for group in groups_of(call.inputs, model.info, most=64, most_characters=131_072):
            request = EmbedRequest(
                caller=call.caller,
                inputs=tuple((_part(text),) for text in group),
                truncate=call.truncate,
                num_ctx=num_ctx,
            )
            part = await _embedded(model, request, call.model)
            vectors += part.vectors.float32
            prompt_tokens += part.prompt_tokens
            dimensions = part.vectors.dimensions
    except PromptTooLong as error:
        raise PromptTooLong(_CANNOT_BE_CUT if call.truncate else _MUST_NOT_BE_CUT, error.remedy) from error
    return Embedded(vectors=Vectors(dimensions=dimensions, float32=bytes(vectors)), prompt_tokens=prompt_tokens)


def _part(given: str | tuple[int, ...]) -> TextPart | TokensPart:
    return TextPart(text=given) if isinstance(given, str) else TokensPart(ids=given)


async def _embedded(model: RunningModel, request: EmbedRequest, name: str) -> Embedded:
    async with aclosing(model.run(request)) as outputs:
        async for output in outputs:
            if isinstance(output, Embedded):
                return output
    raise EngineError(f'"{name}" returned no embedding')
