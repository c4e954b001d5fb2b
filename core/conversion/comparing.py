"""Compares two models: what the second loses and gains against the first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corral.core.containment import contained
from corral.core.errors import JobFailed, Unsupported
from corral.core.models.model import StoredModel
from corral.core.ports.jobs import JobRunner
from corral.core.ports.loadable_models import LoadableModels
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.comparisons import CompareRequest, Comparison
from corral.core.specs.engines import EngineSpec, LocalFile

__all__ = ("ModelComparer",)


class ModelComparer:
    """Compares with the first engine that can, in a process of its own. `engines` in the order of preference."""

    def __init__(self, *, models: LoadableModels, jobs: JobRunner, engines: Sequence[EngineSpec]) -> None:
        self._models = models
        self._jobs = jobs
        self._engines = [spec for spec in engines if spec.compare is not None]

    async def compare(
        self,
        reference: StoredModel,
        candidate: StoredModel,
        *,
        text: Path | None = None,
        speed: bool = True,
        enough_kl: float | None = None,
        on_progress: OnLoadProgress,
    ) -> Comparison:
        """Cancelling it ends the process. See `CompareRequest`.

        Raises `Unsupported` if no engine can compare the two, `InvalidRequest` if their vocabularies differ, and what
        loading raises.
        """
        for spec in self._engines:
            if await self._takes(spec, reference) and await self._takes(spec, candidate):
                break
        else:
            named = ", ".join(spec.name for spec in self._engines) or "none"
            raise Unsupported(
                f"no engine can compare {reference.name.short} with {candidate.name.short}",
                f"engines that compare models: {named}; corral engines shows what is missing",
            )
        assert spec.compare is not None
        async with self._models.loadable_files(reference) as ours, self._models.loadable_files(candidate) as theirs:
            request = CompareRequest(
                reference=_weights(ours),
                candidate=_weights(theirs),
                reference_adapters=_adapters(ours),
                candidate_adapters=_adapters(theirs),
                text=None if text is None else str(text),
                speed=speed,
                enough_kl=enough_kl,
            )
            try:
                return await self._jobs.run(spec.compare, request, Comparison, on_progress)
            except JobFailed as error:
                raise JobFailed(
                    f"comparing {reference.name.short} with {candidate.name.short} failed: {error.message}",
                    error.remedy,
                ) from error

    async def _takes(self, spec: EngineSpec, record: StoredModel) -> bool:
        metadata = await self._models.metadata(record)
        options = None if spec.load_options is None else spec.load_options()
        match = contained(spec.match, record, metadata, options)
        return match.score > 0 and match.derive is None


def _adapters(files: Sequence[LocalFile]) -> tuple[LocalFile, ...]:
    return tuple(file for file in files if file.role == "adapter")


def _weights(files: Sequence[LocalFile]) -> LocalFile:
    return next(file for file in files if file.role == "weights")
