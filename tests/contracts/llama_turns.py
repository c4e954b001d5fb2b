"""Turns of conversations with a llama.cpp engine, and every number that it says to them."""

from __future__ import annotations

from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.core.requests.outputs import EngineFailed, EngineFinished, EngineOutput, Prefilled, Token
from corral.core.requests.prompts import TokensPart
from corral.core.requests.requests import CompletionRequest, ContextPolicy, SamplingParams

__all__ = ("Turn", "answer", "prompt")


class Turn:
    """A prompt of token ids, and what the engine has said to it."""

    def __init__(self, ids: list[int], *, seed: int = 0, context: ContextPolicy | None = None) -> None:
        self.ids = ids
        self.seed = seed
        self.request = CompletionRequest(
            prompt=(TokensPart(ids=tuple(ids)),),
            sampling=SamplingParams(temperature=1.0, seed=seed, ignore_eos=True),
            context=context or ContextPolicy(),
            logprobs=1,
        )
        self.tokens: list[int] = []
        self.numbers: list[float] = []
        self.cached = 0

    def take(self, output: EngineOutput) -> None:
        assert not isinstance(output, EngineFailed), output
        if isinstance(output, Prefilled):
            self.cached = output.cached_tokens
        elif isinstance(output, Token):
            assert output.token_id is not None
            assert output.logprob is not None
            self.tokens.append(output.token_id)
            self.numbers.append(output.logprob.logprob)

    @property
    def whole(self) -> list[int]:
        return self.ids + self.tokens

    def next(self) -> Turn:
        """The next turn of the conversation: all of this one, and more tokens."""
        return Turn(self.whole + list(range(90, 100)), seed=1)


def answer(engine: LlamaCppEngine, *turns: Turn, limit: int = 20) -> None:
    """Run turns together, each until it has `limit` tokens; then it is aborted, as a driver does."""
    for index, turn in enumerate(turns):
        engine.add_request(index, turn.request, None)
    while engine.has_unfinished_requests():
        for index, output in engine.step():
            if len(turns[index].tokens) < limit and not isinstance(output, EngineFinished):
                turns[index].take(output)
                if len(turns[index].tokens) == limit:
                    engine.abort_request(index)


def prompt(seed: int, length: int = 30) -> list[int]:
    """Token ids; those of different seeds have nothing in common."""
    return [1000 + (seed * 7919 + 31 * index) % 40_000 for index in range(length)]
