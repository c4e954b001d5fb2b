"""The suite that every `StepEngine` must pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from corral.core.errors import CorralError, PromptTooLong
from corral.core.ports.engines import StepEngine
from corral.core.requests.outputs import (
    EngineEmbedded,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    EngineRanked,
    Prefilled,
    Token,
)
from corral.core.requests.requests import CompletionRequest, ContextPolicy, EmbedRequest, RerankRequest
from corral.plugins.testing.engine_requests import (
    WORDS,
    EngineContract,
    check_order,
    completion,
    text_of,
    text_prompt,
    tokens_of,
)

__all__ = ("StepEngineContract",)

_TOO_MANY_STEPS = 20_000


class _OnlyToken:
    """A mask that allows one token, and records what the engine reports as chosen."""

    def __init__(self, token_id: int, vocabulary_size: int) -> None:
        bits = bytearray((vocabulary_size + 7) // 8)
        bits[token_id >> 3] |= 1 << (token_id & 7)
        self._bits = bytes(bits)
        self.accepted: list[int] = []

    def allowed(self) -> bytes | None:
        return self._bits

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


def _pairs(outputs: Iterable[tuple[int, EngineOutput]]) -> list[tuple[int, EngineOutput]]:
    pairs = list(outputs)
    for pair in pairs:
        assert isinstance(pair, tuple), f"step() gives pairs (request id, output), but this is {pair!r}"
        assert len(pair) == 2, f"step() gives pairs (request id, output), but this is {pair!r}"
    return pairs


class StepEngineContract(EngineContract):
    """Subclass it and provide the fixture `engine`: a fresh `StepEngine` that does completions. The suite closes it.

    Only what the engine claims in its ``info`` is tested.
    """

    @pytest.fixture
    def engine(self) -> StepEngine:
        raise NotImplementedError("give a fixture called engine")

    @pytest.fixture(autouse=True)
    def _closing(self, engine: StepEngine) -> Iterator[None]:
        yield
        engine.close()
        engine.close()

    @staticmethod
    def run(
        engine: StepEngine, *requests: CompletionRequest | EmbedRequest | RerankRequest, limit: int = 24
    ) -> list[list[EngineOutput]]:
        """The outputs of each request, run together; a request is aborted after `limit` tokens, as a driver would."""
        outputs: dict[int, list[EngineOutput]] = {}
        for request_id, request in enumerate(requests):
            outputs[request_id] = []
            engine.add_request(request_id, request, None)
        for _ in range(_TOO_MANY_STEPS):
            if not engine.has_unfinished_requests():
                return list(outputs.values())
            for request_id, output in _pairs(engine.step()):
                mine = outputs[request_id]
                if mine and isinstance(mine[-1], EngineFinished):
                    continue
                mine.append(output)
                if len(tokens_of(mine)) == limit:
                    mine.append(EngineFinished(reason="length"))
                    engine.abort_request(request_id)
        pytest.fail("the engine never finished")

    def test_idle(self, engine: StepEngine) -> None:
        """Without requests, nothing is unfinished, and a step returns nothing."""
        assert not engine.has_unfinished_requests()
        assert list(engine.step()) == []

    def test_order_of_outputs(self, engine: StepEngine) -> None:
        """A completion gives `Prefilled`, then tokens, then `EngineFinished`."""
        [outputs] = self.run(engine, completion())
        check_order(outputs)
        assert text_of(outputs)

    def test_prompt_tokens_are_counted(self, engine: StepEngine) -> None:
        """`Prefilled` counts exactly the ids that the tokenizer gives."""
        if engine.tokenizer is None:
            pytest.skip("the engine has no tokenizer (its tokenizer is None) to count by")
        request = completion()
        [outputs] = self.run(engine, request)
        [ids] = engine.tokenizer.encode([request.prompt])
        assert isinstance(outputs[0], Prefilled)
        assert outputs[0].prompt_tokens == len(ids)

    def test_tokenizer(self, engine: StepEngine) -> None:
        """Decoding what was encoded gives the text again."""
        self.check_tokenizer(engine)

    def test_a_prompt_of_ids(self, engine: StepEngine) -> None:
        """The ids of a text are the same prompt as the text: an engine with a tokenizer gets long texts as ids."""
        [ids] = self.run(engine, self.prompt_of_ids(engine))
        [text] = self.run(engine, completion())
        self.check_same_prompt(ids, text)

    def test_greedy_repeats(self, engine: StepEngine) -> None:
        """With temperature 0, the same request gets the same text twice."""
        [first] = self.run(engine, completion())
        [second] = self.run(engine, completion())
        assert text_of(first) == text_of(second)

    def test_seed_repeats(self, engine: StepEngine) -> None:
        """With ``seed``, the same seed gives the same text twice, and one of several others another text."""
        self.require(engine, "seed")
        texts = [text_of(self.run(engine, completion(temperature=1.5, seed=seed))[0]) for seed in (7, 7, 8, 9, 10)]
        assert texts[0] == texts[1]
        assert len(set(texts)) > 1

    def test_requests_run_together(self, engine: StepEngine) -> None:
        """All requests finish, even if there are more of them than the engine has streams."""
        requests = [completion(f"{WORDS} Number {index}:") for index in range(engine.info.parallel + 2)]
        for outputs in self.run(engine, *requests, limit=8):
            check_order(outputs)

    def test_exact(self, engine: StepEngine) -> None:
        """With ``exact``, a request gets the same text alone and alongside others."""
        self.require(engine, "exact")
        requests = [completion(f"{WORDS} Number {index}:") for index in range(4)]
        alone = [text_of(self.run(engine, request)[0]) for request in requests]
        together = [text_of(outputs) for outputs in self.run(engine, *requests)]
        assert together == alone

    def test_abort(self, engine: StepEngine) -> None:
        """An aborted request yields no more output, others continue, and its id can be used again."""
        engine.add_request(1, completion(ignore_eos=True), None)
        engine.add_request(2, completion(), None)
        engine.step()
        engine.abort_request(1)
        seen: set[int] = set()
        for _ in range(_TOO_MANY_STEPS):
            seen |= {request_id for request_id, _ in engine.step()}
            if seen:
                break
        engine.abort_request(2)
        assert seen == {2}
        assert not engine.has_unfinished_requests()
        engine.add_request(1, completion(), None)
        engine.abort_request(1)
        assert not engine.has_unfinished_requests()

    def test_abort_of_an_unknown_id(self, engine: StepEngine) -> None:
        """Aborting an unknown request does nothing."""
        engine.abort_request(99)

    def test_too_long_a_prompt(self, engine: StepEngine) -> None:
        """If the engine knows its context length, a longer prompt that must not be cut is refused with `PromptTooLong`,
        at once or as an output.
        """
        if engine.info.context_length is None:
            pytest.skip("info.context_length is None: the engine knows no limit, so none is tried")
        num_ctx = min(32, engine.info.context_length)
        request = CompletionRequest(prompt=text_prompt(WORDS * 20), context=ContextPolicy(num_ctx=num_ctx, shift=False))
        try:
            [outputs] = self.run(engine, request)
        except CorralError as error:
            assert isinstance(error, PromptTooLong)  # noqa: PT017 - either way of reporting it is allowed
        else:
            assert isinstance(outputs[-1], EngineFailed)
            assert outputs[-1].error.code == PromptTooLong.code
        assert not engine.has_unfinished_requests()

    def test_logprobs(self, engine: StepEngine) -> None:
        """There are as many alternatives as requested, most likely first; the greedy token is the most likely."""
        self.require(engine, "logprobs")
        [outputs] = self.run(engine, completion(logprobs=3), limit=4)
        for token in tokens_of(outputs):
            assert token.logprob is not None
            assert token.logprob.logprob <= 0.0
            assert len(token.logprob.top) == 3
            assert token.logprob.top[0].logprob == pytest.approx(token.logprob.logprob)
            assert [one.logprob for one in token.logprob.top] == sorted(
                (one.logprob for one in token.logprob.top), reverse=True
            )

    def test_mask(self, engine: StepEngine, vocabulary_size: int | None) -> None:
        """Only tokens that the mask allows are chosen, and the mask learns about each of them."""
        self.require(engine, "constraints")
        if engine.tokenizer is None or vocabulary_size is None:
            pytest.skip("the engine has no tokenizer, or the test class gives no fixture vocabulary_size")
        [ids] = engine.tokenizer.encode([text_prompt(" z")])
        mask = _OnlyToken(ids[-1], vocabulary_size)
        engine.add_request(1, completion(), mask)
        chosen: list[int | None] = []
        for _ in range(_TOO_MANY_STEPS):
            chosen += [output.token_id for _, output in engine.step() if isinstance(output, Token)]
            if len(chosen) >= 3:
                break
        engine.abort_request(1)
        assert set(chosen) == {ids[-1]}
        assert mask.accepted[: len(chosen)] == chosen

    def test_embeddings(self, engine: StepEngine) -> None:
        """One vector per input, in order; the same text gives the same vector, another text another."""
        if "embedding" not in engine.info.tasks:
            pytest.skip("info.tasks does not name 'embedding', so the engine is not asked for vectors")
        inputs = (text_prompt("a horse"), text_prompt("the moon"), text_prompt("a horse"))
        [[output]] = self.run(engine, EmbedRequest(inputs=inputs))
        assert isinstance(output, EngineEmbedded)
        assert output.vectors.count == 3
        size = 4 * output.vectors.dimensions
        first, second, third = (output.vectors.float32[size * row : size * (row + 1)] for row in range(3))
        assert first == third != second
        assert output.prompt_tokens > 0

    def test_scores(self, engine: StepEngine) -> None:
        """One score per document, in order; the same document has the same score, another document another."""
        if "rerank" not in engine.info.tasks:
            pytest.skip("info.tasks does not name 'rerank', so the engine is not asked for scores")
        documents = (text_prompt("a horse"), text_prompt("the moon"), text_prompt("a horse"))
        [[output]] = self.run(engine, RerankRequest(query=text_prompt("which animal?"), documents=documents))
        assert isinstance(output, EngineRanked)
        first, second, third = output.scores
        assert first == pytest.approx(third, abs=1e-3)
        assert first != second
        assert output.prompt_tokens > 0
