"""Prepares a request's texts before the engine sees them: settles look-alikes, and turns long texts into ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import msgspec

from corral.adapters.runners.text_threads import Steps
from corral.core.errors import PromptTooLong
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import GradualTokenizer, Tokenizer
from corral.core.requests.control_tokens import LOOKALIKES
from corral.core.requests.prompts import MediaPart, Prompt, TextPart, TokensPart, has_media, joined
from corral.core.requests.requests import CompletionRequest, EmbedRequest, Request, RerankRequest

__all__ = ("RequestTexts", "characters_of", "encoded", "without_middle")

_LONG_TEXT = 8192  # characters; a tokenizer needs about a millisecond for this many
_TURN_CHARACTERS = 8_192
_LONG_TOKEN = 256  # bytes; hardly any vocabulary has longer ones


class RequestTexts:
    """The texts of one model's requests. Without a tokenizer they all stay as they are.

    A prompt with images is not turned into ids: only its engine knows how many tokens an image takes.
    """

    def __init__(self, info: ModelInfo, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._info = info
        # A template keeps everything apart that looks like a control token if the real ones are not known.
        self._guessed = info.control_tokens is None and not hasattr(tokenizer, "vocabulary")

    def work_on(self, request: Request) -> tuple[Steps[Request], int] | None:
        """The steps that turn a request into one that an engine can accept at once, and how many characters they read.

        None if `request` already is one. The steps raise `PromptTooLong` as soon as a text is known to have
        more tokens than fit.
        """
        tokenizer = self._tokenizer
        if tokenizer is None:
            return None
        if isinstance(request, CompletionRequest):
            characters = characters_of(request.prompt)
            suspects = _suspects(request.prompt) if self._guessed else ()
            if not suspects and (characters < _LONG_TEXT or has_media(request.prompt)):
                return None
            return self._completion(tokenizer, request, suspects), characters
        if isinstance(request, EmbedRequest):
            characters = sum(map(characters_of, request.inputs))
            return None if characters < _LONG_TEXT else (self._embedding(tokenizer, request), characters)
        if isinstance(request, RerankRequest):
            characters = sum(map(characters_of, (request.query, *request.documents)))
            return None if characters < _LONG_TEXT else (self._reranking(tokenizer, request), characters)
        return None

    def _completion(
        self, tokenizer: Tokenizer, request: CompletionRequest, suspects: Sequence[str]
    ) -> Steps[CompletionRequest]:
        prompt = request.prompt
        if suspects:
            prompt = yield from _settled(tokenizer, prompt, suspects)
        if characters_of(prompt) < _LONG_TEXT or has_media(prompt):
            return msgspec.structs.replace(request, prompt=prompt)
        context = request.context
        most = self._info.most_tokens(context.num_ctx)
        if most is None or not (context.truncate and context.shift):
            [ids] = yield from encoded(tokenizer, [prompt], None if most is None else max(0, most - 1))
            return msgspec.structs.replace(request, prompt=(TokensPart(ids=ids),))
        # The engine keeps the first and the last tokens. What cannot be among them is not even tokenized.
        shorter = without_middle(prompt, most * (self._info.longest_token_bytes or _LONG_TOKEN))
        [ids] = yield from encoded(tokenizer, [shorter], None)
        kept = characters_of(shorter)
        dropped = (characters_of(prompt) - kept) * len(ids) // kept
        return msgspec.structs.replace(request, prompt=(TokensPart(ids=ids),), dropped_tokens=dropped)

    def _embedding(self, tokenizer: Tokenizer, request: EmbedRequest) -> Steps[EmbedRequest]:
        most = self._info.most_tokens(request.num_ctx)
        found = yield from encoded(tokenizer, request.inputs, most, cut=request.truncate)
        return msgspec.structs.replace(request, inputs=tuple((TokensPart(ids=ids),) for ids in found))

    def _reranking(self, tokenizer: Tokenizer, request: RerankRequest) -> Steps[RerankRequest]:
        most = self._info.most_tokens(request.num_ctx)
        [query] = yield from encoded(tokenizer, [request.query], most)
        found = yield from encoded(tokenizer, request.documents, most, cut=request.truncate)
        documents = tuple((TokensPart(ids=ids),) for ids in found)
        return msgspec.structs.replace(request, query=(TokensPart(ids=query),), documents=documents)


def encoded(
    tokenizer: Tokenizer, prompts: Iterable[Prompt], most: int | None, *, cut: bool = False
) -> Steps[list[tuple[int, ...]]]:
    """The ids of each prompt; `most` and `cut` as in `RunningModel.tokenize`. Raises what the tokenizer raises."""
    gradual = cast(GradualTokenizer, tokenizer) if hasattr(tokenizer, "encode_gradually") else None
    found: list[tuple[int, ...]] = []
    since = 0
    for prompt in prompts:
        if since > _TURN_CHARACTERS:
            since = 0
            yield
        if gradual is None:
            found += (_bounded(ids, most, cut=cut) for ids in tokenizer.encode([prompt]))
        else:
            found.append((yield from gradual.encode_gradually(prompt, most=most, cut=cut)))
        since += 1 + characters_of(prompt)
    return found


def characters_of(prompt: Prompt) -> int:
    """How much of the prompt is still text."""
    return sum([len(part.text) for part in prompt if isinstance(part, TextPart)])


def without_middle(prompt: Prompt, reach: int) -> Prompt:
    """The prompt with only the first and the last `reach` characters of its text."""
    first, last = reach, characters_of(prompt) - reach
    if last <= first:
        return prompt
    parts: list[TextPart | TokensPart | MediaPart] = []
    position = 0
    for part in prompt:
        if isinstance(part, TextPart):
            kept = part.text[: max(0, first - position)], part.text[max(0, last - position) :]
            parts += [msgspec.structs.replace(part, text=text) for text in kept]
            position += len(part.text)
        else:
            parts.append(part)
    return joined(parts)


def _suspects(prompt: Prompt) -> tuple[str, ...]:
    texts = [part.text for part in prompt if isinstance(part, TextPart) and not part.parse_special]
    return tuple(dict.fromkeys(text for text in texts if LOOKALIKES.is_one(text)))


def _settled(tokenizer: Tokenizer, prompt: Prompt, suspects: Sequence[str]) -> Steps[Prompt]:
    """Joins look-alikes that are not control tokens of this model to the text around them."""
    readings: list[Prompt] = []
    for text in suspects:
        readings += [(TextPart(text=text, parse_special=True),), (TextPart(text=text),)]
    ids = yield from encoded(tokenizer, readings, None)
    harmless = {text for text, special, plain in zip(suspects, ids[::2], ids[1::2], strict=True) if special == plain}
    if not harmless:
        return prompt
    return joined(
        TextPart(text=part.text, parse_special=True) if isinstance(part, TextPart) and part.text in harmless else part
        for part in prompt
    )


def _bounded(ids: tuple[int, ...], most: int | None, *, cut: bool) -> tuple[int, ...]:
    """Cut ids that are not needed: millions of them would take memory in every process they pass through."""
    if most is None or len(ids) <= most:
        return ids
    if not cut:
        raise PromptTooLong(
            f"the prompt of {len(ids)} tokens is longer than the {most} that fit", "shorten it, or raise num_ctx"
        )
    return ids[: most + 1]
