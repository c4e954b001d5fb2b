"""Tells `corral import` and `corral show` what a file of `corral markov train` is."""

from __future__ import annotations

from pathlib import Path

from corral.plugins import ModelMetadata
from corral_markov.chain import MAGIC, read_facts

__all__ = ("MarkovReader",)


class MarkovReader:
    """The `MetadataReader` of Markov chains."""

    @property
    def format(self) -> str:
        return "markov"

    def recognises(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                return file.read(len(MAGIC)) == MAGIC
        except OSError:
            return False

    def read(self, path: Path) -> ModelMetadata:
        facts = read_facts(path)
        return ModelMetadata(
            format=self.format,
            architecture="markov",
            file_type="",
            parameter_count=facts.transitions,
            tensor_bytes=path.stat().st_size,
            keys={"markov.order": facts.order, "markov.contexts": facts.contexts},
        )

    def describe(self, path: Path, *, verbose: bool) -> dict[str, object]:
        return dict(self.read(path).keys)

    def tensors(self, path: Path) -> list[tuple[str, str, tuple[int, ...]]]:
        return []
