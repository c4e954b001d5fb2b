"""The engine as data, which Corral reads before it imports the engine: its models, their memory, its settings."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from corral.plugins import EngineSpec, Match, Model, ModelMetadata, StoredModel

__all__ = ("SPEC", "MarkovOptions")

_MEMORY_PER_FILE_BYTE = 8
"""About how much larger Python's objects are than the JSON that they are read from."""


class MarkovOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``[engines.markov]``: `memory_words`, the most words that decide the next one; None is as many as were trained.

    `endless` begins a new sentence where one is over, instead of ending the answer.
    """

    memory_words: int | None = None
    endless: bool = False


def match(model: Model, metadata: ModelMetadata | None, options: MarkovOptions) -> Match:
    if model.format == "markov":
        return Match(score=100, reason="a Markov chain")
    return Match(score=0, reason="only Markov chains (corral markov train TEXT OUT)")


def estimate(record: StoredModel, metadata: ModelMetadata | None, options: MarkovOptions) -> Mapping[str, int]:
    return {"cpu": record.size_bytes * _MEMORY_PER_FILE_BYTE}


SPEC = EngineSpec(
    name="markov",
    summary="Markov chains of words, trained from a text",
    form="generator",
    load="corral_markov.engine:load",
    match=match,
    estimate=estimate,
    runners=("thread", "process"),
    tasks=frozenset({"completion"}),
    takes="files of corral markov train",
    load_options=MarkovOptions,
)
