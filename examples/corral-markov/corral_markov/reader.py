"""Tells `corral import` and `corral show` what a file of `corral markov train` is."""

from __future__ import annotations

from corral.plugins import ModelMetadata, RandomAccess
from corral_markov.chain import MAGIC, read_facts

__all__ = ("MarkovReader",)


class MarkovReader:
    """The `MetadataReader` of Markov chains."""

    @property
    def format(self) -> str:
        return "markov"

    def recognises(self, source: RandomAccess) -> bool:
        return source.read(0, len(MAGIC)) == MAGIC

    def read(self, source: RandomAccess) -> ModelMetadata:
        facts = read_facts(source)
        return ModelMetadata(
            format=self.format,
            architecture="markov",
            file_type="",
            parameter_count=facts.transitions,
            tensor_bytes=source.size_bytes,
            keys={"markov.order": facts.order, "markov.contexts": facts.contexts},
        )

    def describe(self, source: RandomAccess, *, verbose: bool) -> dict[str, object]:
        return dict(self.read(source).keys)

    def tensors(self, source: RandomAccess) -> list[tuple[str, str, tuple[int, ...]]]:
        return []
