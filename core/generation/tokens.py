"""The use cases that only tokenize. They do not load a model's weights if its vocabulary is enough."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec

from corral.core.errors import InvalidRequest, PromptTooLong, Unsupported
from corral.core.generation.asking import FoundCall, look_up
from corral.core.generation.assembling import resolved_options
from corral.core.generation.bare_tokens import bare_ids
from corral.core.generation.chat_formats import ChatFormats
from corral.core.generation.opening import ModelOpener
from corral.core.generation.prompting import completion_of, rendered_chat, shown_text
from corral.core.generation.refusals import require_rendering
from corral.core.ports.running import RunningModel
from corral.core.requests.calls import ChatCall
from corral.core.requests.prompts import Prompt, TextPart, TokensPart, has_media
from corral.core.requests.requests import ChatRequest
from corral.core.requests.tokens import DetokenizeCall, TokenizeCall, Tokens
from corral.core.scheduling.leases import Lease

__all__ = ("TokenService",)

_MOST_TOKENS = 1 << 21
"""How many ids one call gives: the server holds all of them at once."""


class TokenService:
    """Each use case asks the model if it is in memory. Otherwise it opens the model's vocabulary, and loads the model
    only if its engine cannot do that; the ids are the same in all cases. Nothing is charged to the caller.

    All of them raise `Unsupported` for a model whose engine does not tokenize, such as one on another server.
    """

    def __init__(self, models: ModelOpener, formats: ChatFormats) -> None:
        self._models = models
        self._formats = formats

    async def of_text(self, call: TokenizeCall) -> Tokens:
        """The ids of a text. Raises `InvalidRequest` for a text of far too many."""
        async with self._leased(call) as model:
            given = (call.text,) if isinstance(call.text, str) else call.text
            prompt = tuple([_part(one, parse_special=call.parse_special) for one in given])
            ids = await _ids(model, prompt, bare=not call.add_special)
            text = await shown_text(prompt, model)
            return Tokens(ids=ids, text=text, pieces=await _pieces(model, ids, wanted=call.with_pieces))

    async def of_chat(self, call: ChatCall, *, with_pieces: bool = False) -> Tokens:
        """The prompt that the model would get for this chat, and its ids. All of it, whether or not it fits into the
        context.

        Raises what `InferenceService.chat` raises, and `Unsupported` for images, or if chats are not rendered here.
        """
        async with self._rendered(call) as (model, prompt):
            if has_media(prompt):
                raise Unsupported("images are no tokens: only a model that sees knows how many it takes", "omit them")
            ids = await _ids(model, prompt)
            text = await shown_text(prompt, model)
            return Tokens(ids=ids, text=text, pieces=await _pieces(model, ids, wanted=with_pieces))

    async def rendered(self, call: ChatCall) -> str:
        """The text of the prompt that the model would get for this chat, with images as ``[img-0]``. Raises as
        `of_chat`.
        """
        async with self._rendered(call) as (model, prompt):
            return await shown_text(prompt, model)

    async def text_of(self, call: DetokenizeCall) -> Tokens:
        """The text of ids. Raises `InvalidRequest` for one that is not in the vocabulary."""
        async with self._leased(call) as model:
            text = await model.detokenize(call.ids)
            return Tokens(ids=call.ids, text=text, pieces=await _pieces(model, call.ids, wanted=call.with_pieces))

    @asynccontextmanager
    async def _leased(self, call: TokenizeCall | DetokenizeCall) -> AsyncGenerator[RunningModel, None]:
        view = await self._models.view(call)
        async with self._models.lease_tokenizer(view, call, resolved_options(view, call.options)) as lease:
            yield lease.model

    @asynccontextmanager
    async def _rendered(self, call: ChatCall) -> AsyncGenerator[tuple[RunningModel, Prompt], None]:
        asked = await look_up(self._models, self._formats, call)
        async with self._models.lease_tokenizer(asked.view, asked.call, asked.options) as lease:
            if not lease.vocabulary_only:
                require_rendering(lease, asked.request, call.model)
            yield lease.model, await self._prompt(asked, lease)

    async def _prompt(self, asked: FoundCall, lease: Lease) -> Prompt:
        request = asked.request
        assert isinstance(request, ChatRequest)
        context = msgspec.structs.replace(request.context, num_ctx=None, truncate=False)
        whole = msgspec.structs.replace(request, context=context)
        unlimited = msgspec.structs.replace(lease.model.info, context_length=None)
        opened = await self._formats.open(asked.view, request.template)
        return completion_of(whole, await rendered_chat(whole, unlimited, opened.format), truncate=False).prompt


def _part(given: str | int, *, parse_special: bool) -> TextPart | TokensPart:
    if isinstance(given, int):
        return TokensPart(ids=(given,))
    return TextPart(text=given, parse_special=parse_special)


async def _ids(model: RunningModel, prompt: Prompt, *, bare: bool = False) -> tuple[int, ...]:
    try:
        if bare:
            return await bare_ids(model, prompt, most=_MOST_TOKENS)
        [ids] = await model.tokenize([prompt], most=_MOST_TOKENS)
    except PromptTooLong as error:
        raise InvalidRequest(f"a text of more than {_MOST_TOKENS} tokens", "split it") from error
    return ids


async def _pieces(model: RunningModel, ids: Sequence[int], *, wanted: bool) -> tuple[bytes, ...] | None:
    return tuple(await model.pieces(ids)) if wanted else None
