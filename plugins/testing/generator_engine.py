"""The suite that every `GeneratorEngine` must pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from corral.core.ports.engines import GeneratorEngine
from corral.core.requests.outputs import EngineFinished, EngineOutput, Prefilled
from corral.core.requests.requests import CompletionRequest
from corral.plugins.testing.engine_requests import EngineContract, completion, text_of, tokens_of

__all__ = ("GeneratorEngineContract",)


def _outputs(engine: GeneratorEngine, request: CompletionRequest, limit: int = 24) -> list[EngineOutput]:
    """The outputs up to `limit` tokens: an engine may continue until the generator is closed."""
    outputs: list[EngineOutput] = []
    with contextlib.closing(engine.run(request, None)) as running:
        for output in running:
            outputs += [] if output is None else [output]
            if len(tokens_of(outputs)) == limit:
                break
    return outputs


class GeneratorEngineContract(EngineContract):
    """Subclass it and provide the fixture `engine`: a fresh `GeneratorEngine` that does completions."""

    @pytest.fixture
    def engine(self) -> GeneratorEngine:
        raise NotImplementedError("give a fixture called engine")

    @pytest.fixture(autouse=True)
    def _closing(self, engine: GeneratorEngine) -> Iterator[None]:
        yield
        engine.close()
        engine.close()

    def test_outputs(self, engine: GeneratorEngine) -> None:
        """A completion gives `Prefilled`, then tokens, then perhaps `EngineFinished`."""
        first, *outputs = _outputs(engine, completion())
        assert isinstance(first, Prefilled)
        tokens = tokens_of(outputs)
        assert tokens
        assert outputs[: len(tokens)] == tokens
        assert all(isinstance(output, EngineFinished) for output in outputs[len(tokens) :])

    def test_greedy_repeats(self, engine: GeneratorEngine) -> None:
        """With temperature 0, the same request gets the same text twice."""
        assert text_of(_outputs(engine, completion())) == text_of(_outputs(engine, completion()))

    def test_closing_early(self, engine: GeneratorEngine) -> None:
        """After a generator is closed early, the engine is ready for the next request."""
        running = engine.run(completion(), None)
        next(running)
        running.close()
        assert tokens_of(_outputs(engine, completion()))

    def test_tokenizer(self, engine: GeneratorEngine) -> None:
        """Decoding what was encoded gives the text again."""
        self.check_tokenizer(engine)

    def test_a_prompt_of_ids(self, engine: GeneratorEngine) -> None:
        """The ids of a text are the same prompt as the text: an engine with a tokenizer gets long texts as ids."""
        request = self.prompt_of_ids(engine)
        self.check_same_prompt(_outputs(engine, request), _outputs(engine, completion()))
