"""The engine: generates word after word, each drawn from those that followed the last words in the chain's text."""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from pathlib import Path

import msgspec

from corral.plugins import (
    CompletionRequest,
    EngineFinished,
    EngineOutput,
    InvalidModelFile,
    LoadRequest,
    ModelInfo,
    OnLoadProgress,
    Prefilled,
    Request,
    SamplingParams,
    Token,
    TokenMask,
    Unsupported,
    ignored_options,
    prompt_text,
)
from corral_markov.chain import END, Chain, words_of
from corral_markov.spec import MarkovOptions

__all__ = ("MarkovEngine", "load")

_HONOURED = {"temperature", "top_k", "seed", "num_predict", "stop", "ignore_eos"}


class MarkovEngine:
    """A `GeneratorEngine`: stop strings, limits and timing are Corral's work, words are the engine's."""

    tokenizer = None

    def __init__(self, chain: Chain, options: MarkovOptions) -> None:
        self._chain = chain
        self._options = options
        self.info = ModelInfo(
            tasks=frozenset({"completion"}),
            features=frozenset({"exact"}),
            details={"order": str(chain.order), "ways on": str(chain.facts.transitions)},
        )

    def run(self, request: Request, mask: TokenMask | None) -> Generator[EngineOutput, None, None]:
        if not isinstance(request, CompletionRequest):
            raise Unsupported(f"the markov engine does not take a {type(request).__name__}")
        sampling = request.sampling
        draw = random.Random(sampling.seed)
        text = prompt_text(request.prompt)
        words = words_of(text)
        yield Prefilled(prompt_tokens=max(1, len(words)), ignored_options=ignored_options(sampling, _HONOURED))
        space = "" if not text or text[-1].isspace() else " "
        while True:
            word = _choose(self._chain.following(words, self._options.memory_words), sampling, draw)
            if word != END:
                words.append(word)
                yield Token(token_id=None, piece=f"{space}{word}".encode())
                space = " "
            elif self._options.endless or sampling.ignore_eos:
                words.clear()
            else:
                yield Token(token_id=None, piece=b"")
                yield EngineFinished(reason="stop")
                return

    def close(self) -> None:
        """Nothing to free."""


def _choose(following: Mapping[str, int], sampling: SamplingParams, draw: random.Random) -> str:
    """Sampling as in language models, with counts in place of the exponentials of logits."""
    ranked = sorted(following.items(), key=lambda item: (-item[1], item[0]))
    if sampling.temperature <= 0:
        return ranked[0][0]
    if sampling.top_k > 0:
        ranked = ranked[: sampling.top_k]
    # Relative to the most common word, so that no temperature overflows.
    weights = [(count / ranked[0][1]) ** (1 / sampling.temperature) for _, count in ranked]
    return draw.choices([word for word, _ in ranked], weights)[0]


def load(request: LoadRequest, on_progress: OnLoadProgress) -> MarkovEngine:
    """What `SPEC.load` names. Raises `InvalidModelFile`."""
    options = msgspec.convert(request.load_options, MarkovOptions)
    files = [file for file in request.files if file.role == "weights"]
    if not files:
        raise InvalidModelFile(f"{request.model} has no file", "corral markov train TEXT OUT makes one")
    chain = Chain.read(Path(files[0].path))
    on_progress(1.0)
    return MarkovEngine(chain, options)
