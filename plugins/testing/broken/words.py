"""Models whose answers break one promise each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from msgspec.structs import replace

from corral.core.errors import PromptTooLong
from corral.core.ports.running import ModelInfo
from corral.core.requests.outputs import Delta, Finished, Output
from corral.core.requests.prompts import TextPart, prompt_text
from corral.core.requests.requests import ChatRequest, CompletionRequest, Request, RerankRequest
from corral.plugins.testing.broken.sound import SoundModel

__all__ = ("WORDS",)


def with_sampling(request: Request, **changes: Any) -> Request:
    """The request with other sampling, if it has any."""
    if isinstance(request, CompletionRequest | ChatRequest):
        return replace(request, sampling=replace(request.sampling, **changes))
    return request


class Silent(SoundModel):
    """Answers without any text if the prompt mentions a horse."""

    breaks = "test_an_answer_has_words"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        silent = "horse" in repr(request)
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                if not (silent and isinstance(output, Delta)):
                    yield output


class Breathless(SoundModel):
    """Gives no reason for the end if it may generate only one token."""

    breaks = "test_a_finish_reason_always"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        one = isinstance(request, CompletionRequest | ChatRequest) and request.sampling.num_predict == 1
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                if not (one and isinstance(output, Finished)):
                    yield output


class Hasty(SoundModel):
    """Sends a delta before `Started`."""

    breaks = "test_outputs_come_in_order"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        if isinstance(request, CompletionRequest | ChatRequest):
            yield Delta()
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                yield output


class Talkative(SoundModel):
    """Generates two tokens beyond the limit."""

    breaks = "test_it_stops_at_num_predict"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        if isinstance(request, CompletionRequest | ChatRequest) and request.sampling.num_predict is not None:
            request = with_sampling(request, num_predict=request.sampling.num_predict + 2)
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                yield output


class Deaf(SoundModel):
    """Ignores stop strings."""

    breaks = "test_stop_strings_end_the_answer"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        async with aclosing(super().answer(with_sampling(request, stop=()))) as outputs:
            async for output in outputs:
                yield output


class Miscounting(SoundModel):
    """Counts one prompt token too many at the end."""

    breaks = "test_usage_adds_up"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                if isinstance(output, Finished):
                    usage = replace(output.usage, prompt_tokens=output.usage.prompt_tokens + 1)
                    output = replace(output, usage=usage)
                yield output


class UpsideDown(SoundModel):
    """Lists the least likely alternative first."""

    breaks = "test_log_probabilities"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                if isinstance(output, Delta):
                    logprobs = tuple(replace(one, top=one.top[::-1]) for one in output.logprobs)
                    output = replace(output, logprobs=logprobs)
                yield output


class Unbound(SoundModel):
    """Ignores the constraint of its answer."""

    breaks = "test_a_constraint_holds"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        if isinstance(request, CompletionRequest | ChatRequest):
            request = replace(request, constraint=None)
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                yield output


class Shouting(SoundModel):
    """Detokenizes ids to another text."""

    breaks = "test_tokens_and_back"

    async def detokenize(self, ids: Sequence[int]) -> str:
        return (await super().detokenize(ids)).encode().upper().decode()

    async def pieces(self, ids: Sequence[int]) -> list[bytes]:
        return [piece.upper() for piece in await super().pieces(ids)]


class Mumbling(SoundModel):
    """Spells single ids without their spaces."""

    breaks = "test_pieces_of_tokens"

    async def pieces(self, ids: Sequence[int]) -> list[bytes]:
        return [piece.strip() for piece in await super().pieces(ids)]


class Changing(SoundModel):
    """Has another control token once it is loaded than in its vocabulary."""

    breaks = "test_the_vocabulary_alone"

    @property
    def info(self) -> ModelInfo:
        info = super().info
        return replace(info, control_tokens=(*(info.control_tokens or ()), "<|late|>"))


class Losing(SoundModel):
    """Reads the texts of a prompt only, and loses its ids."""

    breaks = "test_a_prompt_of_ids"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        if isinstance(request, CompletionRequest):
            request = replace(request, prompt=(TextPart(text=prompt_text(request.prompt)),))
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                yield output


class Overfull(SoundModel):
    """Raises an error of the wrong kind for a prompt that is too long."""

    breaks = "test_a_prompt_beyond_the_context"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        try:
            async with aclosing(super().answer(request)) as outputs:
                async for output in outputs:
                    yield output
        except PromptTooLong as error:
            if isinstance(request, RerankRequest):
                raise
            raise RuntimeError("context overflow") from error


WORDS: tuple[type[SoundModel], ...] = (
    Silent,
    Breathless,
    Hasty,
    Talkative,
    Deaf,
    Miscounting,
    UpsideDown,
    Unbound,
    Shouting,
    Mumbling,
    Changing,
    Losing,
    Overfull,
)
