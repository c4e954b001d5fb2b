"""Compares two models: what the second loses and gains against the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from corral.core.containment import contained
from corral.core.errors import JobFailed, OutOfMemory, Unsupported
from corral.core.models.model import StoredModel
from corral.core.ports.jobs import JobRunner
from corral.core.ports.loadable_models import LoadableModels
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.comparisons import CompareRequest, Comparison
from corral.core.specs.engines import EngineSpec, LocalFile
from corral.core.specs.spec_calls import check_match, estimate_bytes
from corral.core.wording.memory_sizes import memory_size

__all__ = ("ModelComparer",)


class ModelComparer:
    """Compares with the first engine that can, in a process of its own. `engines` in the order of preference."""

    def __init__(
        self,
        *,
        models: LoadableModels,
        jobs: JobRunner,
        engines: Sequence[EngineSpec],
        free_memory: Callable[[], Mapping[str, int]],
    ) -> None:
        self._models = models
        self._jobs = jobs
        self._free_memory = free_memory
        self._engines = [spec for spec in engines if spec.compare is not None]

    async def compare(
        self,
        reference: StoredModel,
        candidate: StoredModel,
        *,
        candidate_weights: Path | None = None,
        text: Path | None = None,
        speed: bool = True,
        enough_kl: float | None = None,
        on_progress: OnLoadProgress,
    ) -> Comparison:
        """Cancelling it ends the process. See `CompareRequest`. `candidate_weights` are loaded in place of the
        candidate's own.

        Raises `Unsupported` if no engine can compare the two, `OutOfMemory` if both together do not fit, before
        anything is loaded, `InvalidRequest` if their vocabularies differ, and what loading raises.
        """
        for spec in self._engines:
            needs = [await self._needs(spec, one) for one in (reference, candidate)]
            if None not in needs:
                break
        else:
            named = ", ".join(spec.name for spec in self._engines) or "none"
            raise Unsupported(
                f"no engine can compare {reference.name.short} with {candidate.name.short}",
                f"engines that compare models: {named}; corral engines shows what is missing",
            )
        assert spec.compare is not None
        self._require_memory(reference, candidate, [one for one in needs if one is not None])
        async with self._models.loadable_files(reference) as ours, self._models.loadable_files(candidate) as theirs:
            request = CompareRequest(
                reference=_weights(ours),
                candidate=_weights(theirs, candidate_weights),
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

    async def _needs(self, spec: EngineSpec, record: StoredModel) -> Mapping[str, int] | None:
        """The memory that the model takes, by device; None if the engine does not run it."""
        metadata = await self._models.metadata(record)
        options = None if spec.load_options is None else spec.load_options()
        match = check_match(contained(spec.match, record, metadata, options))
        if match.score <= 0 or match.derive is not None:
            return None
        return estimate_bytes(spec, record, metadata, options)

    def _require_memory(
        self, reference: StoredModel, candidate: StoredModel, needs: Sequence[Mapping[str, int]]
    ) -> None:
        free = self._free_memory()
        for device in free:
            needed = sum(one.get(device, 0) for one in needs)
            if needed > free[device]:
                raise OutOfMemory(
                    f"comparing {reference.name.short} with {candidate.name.short} takes about {memory_size(needed)} "
                    f"of {device} memory for both, but only {memory_size(free[device])} is free",
                    "unload other models, or compare smaller versions",
                )


def _adapters(files: Sequence[LocalFile]) -> tuple[LocalFile, ...]:
    return tuple(file for file in files if file.role == "adapter")


def _weights(files: Sequence[LocalFile], path: Path | None = None) -> LocalFile:
    own = next(file for file in files if file.role == "weights")
    return own if path is None else LocalFile(role="weights", path=str(path), name=own.name)
