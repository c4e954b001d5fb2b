"""Requests and checks of outputs that the suites of both forms of engines share."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from corral.core.ports.engines import Engine
from corral.core.requests.outputs import EngineFinished, EngineOutput, Prefilled, Token
from corral.core.requests.prompts import Prompt, TextPart, TokensPart
from corral.core.requests.requests import CompletionRequest, SamplingParams

__all__ = ("LOST_IDS", "WORDS", "EngineContract", "check_order", "completion", "text_of", "text_prompt", "tokens_of")

WORDS = "Once upon a time there was a small horse that could count to ten."

LOST_IDS = "the ids of a TokensPart must become part of the prompt as they are: long texts come to an engine as ids"


def text_prompt(text: str) -> Prompt:
    """A prompt of plain text."""
    return (TextPart(text=text),)


def completion(text: str = WORDS, *, logprobs: int | None = None, **sampling: object) -> CompletionRequest:
    """A greedy completion of `text`, unless `sampling` says otherwise."""
    params = SamplingParams(**{"temperature": 0.0, **sampling})  # type: ignore[arg-type]
    return CompletionRequest(prompt=text_prompt(text), sampling=params, logprobs=logprobs)


def tokens_of(outputs: Sequence[EngineOutput]) -> list[Token]:
    return [output for output in outputs if isinstance(output, Token)]


def text_of(outputs: Sequence[EngineOutput]) -> bytes:
    pieces = [token.piece for token in tokens_of(outputs)]
    assert all(isinstance(piece, bytes) for piece in pieces), (
        "Token.piece is bytes: a character may need several tokens"
    )
    return b"".join(pieces)


def check_order(outputs: Sequence[EngineOutput]) -> None:
    """`Prefilled`, then tokens, then `EngineFinished`."""
    assert isinstance(outputs[0], Prefilled)
    assert all(isinstance(output, Token) for output in outputs[1:-1])
    assert isinstance(outputs[-1], EngineFinished)


class EngineContract:
    """What the suites of both forms share."""

    @pytest.fixture
    def vocabulary_size(self) -> int | None:
        """The number of token ids; override it to have masks tested."""
        return None

    @staticmethod
    def require(engine: Engine, feature: str) -> None:
        """Skips a test of a promise that ``info.features`` does not make."""
        if feature not in engine.info.features:
            pytest.skip(f"info.features does not name {feature!r}, so the engine is not asked for it")

    @staticmethod
    def check_tokenizer(engine: Engine) -> None:
        if engine.tokenizer is None:
            pytest.skip("the engine has no tokenizer (its tokenizer is None), so none is tried")
        [ids] = engine.tokenizer.encode([text_prompt(WORDS)])
        assert ids
        assert WORDS in engine.tokenizer.decode(ids).decode()
        assert [tuple(found) for found in engine.tokenizer.encode([(TokensPart(ids=tuple(ids)),)])] == [tuple(ids)], (
            LOST_IDS
        )

    @staticmethod
    def prompt_of_ids(engine: Engine) -> CompletionRequest:
        """`completion()` with the ids of its text as prompt."""
        if engine.tokenizer is None:
            pytest.skip("the engine has no tokenizer (its tokenizer is None), so it gets no prompts of ids")
        request = completion()
        [ids] = engine.tokenizer.encode([request.prompt])
        return replace(request, prompt=(TokensPart(ids=tuple(ids)),))

    @staticmethod
    def check_same_prompt(ids: Sequence[EngineOutput], text: Sequence[EngineOutput]) -> None:
        """The outputs of a prompt of ids, and those of the prompt whose text they stand for."""
        counts = [
            [output.prompt_tokens for output in outputs if isinstance(output, Prefilled)] for outputs in (ids, text)
        ]
        assert counts[0] == counts[1], LOST_IDS
        assert text_of(ids) == text_of(text), LOST_IDS
