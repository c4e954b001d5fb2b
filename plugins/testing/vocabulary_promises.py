"""Promises about an engine's `vocabulary`: without its weights, a model's tokenizer is the same."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from corral.core.ports.running import ModelInfo, RunningModel
from corral.core.requests.prompts import Prompt, TextPart, TokensPart
from corral.core.specs.engines import LoadRequest, vocabulary_spec
from corral.core.specs.imports import import_name
from corral.plugins.testing.loaded import ModelUnderTest
from corral.plugins.testing.loading import RUNNERS, LoadedContract

__all__ = ("VocabularyPromises",)

_SAMPLES = (
    "",
    "Hello world",
    "  two  spaces\n\n\ttabs and\r\nlines ",
    "naïve café, 日本語 and 🐎🏽‍♂️ in 1,234.50 €",
    "<|im_start|>user<|im_end|></s><s>[INST][CLS]<bos><eos>",
    "def f(x):\n    return x ** 2  # squared",
    "\u0000\u200b\ufffd a\u0301",
)


class VocabularyPromises(LoadedContract):
    """For engines with a `vocabulary`."""

    def test_the_vocabulary_alone(self, loaded: ModelUnderTest, load_request: LoadRequest) -> None:
        """It has no task, the control tokens of the loaded model, and gives the same ids; and it reads ids."""
        spec = vocabulary_spec(self.spec)
        if spec is None:
            pytest.skip(f"the {self.spec.name} engine has no vocabulary: the model is loaded to tokenize")
        runner = import_name(RUNNERS[spec.runners[0]])()

        async def compared() -> None:
            alone: RunningModel = await runner.load(spec, replace(load_request, load_options={}), lambda share: None)
            try:
                assert not alone.info.tasks, "info.tasks: it can only tokenize"
                assert "tokenize" in alone.info.features
                assert _read_by_core(alone.info) == _read_by_core(loaded.info)
                ids = await alone.tokenize(_prompts())
                assert ids == await loaded.model.tokenize(_prompts())
                [words] = await alone.tokenize([(TextPart(text="Hello world"),)])
                assert "hello world" in (await alone.detokenize(words)).casefold()
                assert len(await alone.pieces(words)) == len(words)
            finally:
                await alone.aclose()

        loaded.run(compared())


def _prompts() -> list[Prompt]:
    texts: list[Prompt] = [
        (TextPart(text=text, parse_special=special),) for text in _SAMPLES for special in (True, False)
    ]
    return [*texts, (TokensPart(ids=(3,)), TextPart(text=" and words"), TokensPart(ids=(3,)))]


def _read_by_core(info: ModelInfo) -> tuple[object, ...]:
    """What rendering a chat takes from a model."""
    return info.control_tokens, info.longest_token_bytes
