"""The engine through Corral's conformance kit, and what is its own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from corral.plugins import (
    CompletionRequest,
    EngineFinished,
    GeneratorEngine,
    InvalidModelFile,
    LoadRequest,
    LocalFile,
    Prefilled,
    SamplingParams,
    TextPart,
    Token,
)
from corral.plugins.testing import GeneratorEngineContract, RunningModelContract
from corral_markov import SPEC
from corral_markov.engine import MarkovEngine, load
from corral_markov.spec import MarkovOptions


def request_for(path: Path, **options: object) -> LoadRequest:
    plain = msgspec.to_builtins(msgspec.convert(options, MarkovOptions))
    return LoadRequest(model="cats:latest", files=(LocalFile(role="weights", path=str(path)),), load_options=plain)


def engine_of(path: Path, **options: object) -> MarkovEngine:
    return load(request_for(path, **options), lambda share: None)


def said(engine: MarkovEngine, prompt: str, words: int = 30, **sampling: object) -> str:
    params = SamplingParams(**sampling)  # type: ignore[arg-type]
    outputs = engine.run(CompletionRequest(prompt=(TextPart(text=prompt),), sampling=params), None)
    pieces = []
    for output in outputs:
        if isinstance(output, Token):
            pieces.append(output.piece)
        if len(pieces) == words:
            outputs.close()
    return b"".join(pieces).decode()


class TestLoaded(RunningModelContract):
    """Everything that Corral promises of a loaded model."""

    spec = SPEC

    @pytest.fixture
    def load_request(self, chain_file: Path) -> LoadRequest:
        return request_for(chain_file)


class TestByItself(GeneratorEngineContract):
    """What the engine promises to a runner."""

    @pytest.fixture
    def engine(self, chain_file: Path) -> GeneratorEngine:
        return engine_of(chain_file)


def test_it_goes_on_with_the_prompt(chain_file: Path) -> None:
    """With temperature 0, it says what followed most often; the words are joined as in a text."""
    engine = engine_of(chain_file)
    assert said(engine, "Once upon", temperature=0, words=3) == " a time a"
    assert said(engine, "Once upon ", temperature=0, words=1) == "a"


def test_a_sentence_ends(chain_file: Path) -> None:
    """At the end of a sentence the answer ends, with its reason; `endless` and `ignore_eos` go on."""
    request = CompletionRequest(prompt=(TextPart(text="never seen"),), sampling=SamplingParams(temperature=0))
    *_, token, last = engine_of(chain_file).run(request, None)
    assert token == Token(token_id=None, piece=b"")
    assert last == EngineFinished(reason="stop")
    assert len(said(engine_of(chain_file, endless=True), "never seen", seed=1).split()) == 30
    assert len(said(engine_of(chain_file), "never seen", seed=1, ignore_eos=True).split()) == 30


def test_its_settings_reach_it(chain_file: Path) -> None:
    """With a memory of one word it forgets the word before."""
    assert said(engine_of(chain_file), "of the", temperature=0, words=1) == " cat."
    assert said(engine_of(chain_file, memory_words=1), "of the", temperature=0, words=1) == " dog"


@pytest.mark.parametrize("sampling", [{"temperature": 5.0}, {"temperature": 0.01}, {"top_k": 1}, {"seed": 3}])
def test_it_draws(chain_file: Path, sampling: dict[str, object]) -> None:
    """It finds words at any temperature, and with top_k 1."""
    assert said(engine_of(chain_file), "The cat", **{"seed": 1, **sampling})


def test_what_it_ignores_is_told(chain_file: Path) -> None:
    """An option that has no effect here is named to the caller."""
    request = CompletionRequest(prompt=(TextPart(text="a"),), sampling=SamplingParams(mirostat=2, temperature=0))
    first = next(engine_of(chain_file).run(request, None))
    assert isinstance(first, Prefilled)
    assert first.ignored_options == ("mirostat",)


def test_a_model_without_its_file() -> None:
    """If there is no file to load, the error says so."""
    with pytest.raises(InvalidModelFile, match="has no file"):
        load(LoadRequest(model="m", files=()), lambda share: None)
