"""Finds the type in which this machine computes a model's weights best, and keeps it for the loads to come."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Protocol

import msgspec

from corral.core.conversion.comparing import ModelComparer
from corral.core.conversion.converting import Trial
from corral.core.conversion.deriving import ConvertibleModels, ModelDeriver
from corral.core.conversion.quantizing import QUANTIZER
from corral.core.errors import CorralError, ModelNotFound, Unsupported
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName
from corral.core.models.quantization_types import QuantizationType
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.comparisons import Comparison, ModelFigures
from corral.core.specs.converters import tuned_name
from corral.core.specs.engines import EngineSpec
from corral.core.values import Value

__all__ = ("ModelTuner", "TuneReport", "TuneRow", "gain_of")

_log = logging.getLogger(__name__)

_WORTH_IT = 1.05
_QUANTIZED = 0.3  # the share of a candidate's work


class TuneRow(Value, frozen=True, kw_only=True):
    """A type that was tried. `gain` is its speed in relation to the original's, the geometric mean of prompt, one
    answer and eight; None if it was not measured, since its divergence is too large. `refused` says why it could not be
    tried, or cannot be chosen."""

    kind: QuantizationType
    comparison: Comparison | None = None
    gain: float | None = None
    refused: str = ""


class TuneReport(Value, frozen=True, kw_only=True):
    """`original` is what the model has, of the type `original_kind`, None if nothing was measured. `recommended` is the
    best type, None if it is the original, or if nothing was measured. `kept`: loads use the recommendation from now
    on."""

    engine: str
    original_kind: str
    original: ModelFigures | None
    rows: tuple[TuneRow, ...]
    recommended: QuantizationType | None
    kept: bool


class Tunable(ConvertibleModels, Protocol):
    """What tuning needs of the `ModelCatalog`."""

    async def delete(self, name: ModelName) -> StoredModel | None: ...


def gain_of(comparison: Comparison) -> float | None:
    """The candidate's speed in relation to the reference's: the geometric mean of all three; None without them."""
    pairs = [
        (getattr(comparison.candidate, field), getattr(comparison.reference, field))
        for field in ("prompt_per_s", "decode_per_s", "eight_per_s")
    ]
    if any(ours is None or not theirs for ours, theirs in pairs):
        return None
    return float(math.prod(ours / theirs for ours, theirs in pairs) ** (1 / len(pairs)))


class ModelTuner:
    """Tunes models for the first of `engines` that can compare two of them. For one event loop; close it in the end."""

    def __init__(
        self, *, models: Tunable, deriver: ModelDeriver, comparer: ModelComparer, engines: Sequence[EngineSpec]
    ) -> None:
        self._models = models
        self._deriver = deriver
        self._comparer = comparer
        self._engines = [spec for spec in engines if spec.compare is not None and spec.reencodings]
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failed: set[str] = set()

    async def tune(
        self,
        record: StoredModel,
        *,
        types: Sequence[QuantizationType] = (),
        most_kl: float = 0.01,
        keep: bool = True,
        on_progress: OnLoadProgress,
    ) -> TuneReport:
        """Tries `types` (by default those that the engine suggests), and keeps the best whose divergence from the
        original is at most `most_kl`; with `keep` False, or if none could be measured, what was kept before stays.

        Cancelling it leaves nothing behind. Raises `Unsupported` for a model that cannot be re-encoded, or that
        generates no text.
        """
        spec = next(iter(self._engines), None)
        metadata = await self._models.metadata(record)
        if spec is None or record.weights is None or metadata is None or metadata.format != "gguf":
            raise Unsupported(f"{record.name.short} has no weights that can be re-encoded")
        if metadata.pooling is not None:
            raise Unsupported(
                f"{record.name.short} generates no text, so that there is nothing to compare other types by",
                f"corral quantize {record.name.short} TYPE gives it another type",
            )
        # All models with these weights share the result, whichever adapters they have.
        alone = msgspec.structs.replace(record, files=record.files_of("weights"))
        tried = [kind for kind in (types or spec.reencodings) if kind != metadata.file_type]
        rows, candidates = [], dict[str, StoredModel | Trial]()
        async with AsyncExitStack() as trials:
            for number, kind in enumerate(tried):

                def report(share: float, number: int = number) -> None:
                    on_progress((number + share) / len(tried))

                try:
                    candidate = await self._candidate(alone, kind, trials, report)
                    candidates[kind] = candidate
                    found = await self._compare(alone, candidate, most_kl, report)
                    rows.append(_row(kind, found, most_kl))
                except CorralError as error:
                    rows.append(TuneRow(kind=kind, refused=error.message))
            best = max((row for row in rows if not row.refused), key=lambda row: row.gain or 0.0, default=None)
            chosen = best.kind if best is not None and (best.gain or 0.0) >= _WORTH_IT else None
            compared = [row.comparison for row in rows if row.comparison is not None]
            keep = keep and (bool(compared) or not tried)  # a full disk says nothing about types
            if keep:
                await self._keep(record, spec.name, None if chosen is None else candidates[chosen])
        measured = [one.reference for one in compared if one.reference.prompt_per_s is not None]
        original = next(iter([*measured, *(one.reference for one in compared)]), None)
        return TuneReport(
            engine=spec.name,
            original_kind=metadata.file_type,
            original=original,
            rows=tuple(rows),
            recommended=chosen,
            kept=keep,
        )

    async def tuned(self, record: StoredModel) -> dict[str, StoredModel]:
        """The model as each engine loads it, if that differs from what it is."""
        found = {}
        for spec in self._engines:
            loaded = await self._deriver.reencoded(record, spec.name, "off")
            if loaded.weights != record.weights:
                found[spec.name] = loaded
        return found

    async def undo(self, record: StoredModel) -> bool:
        """Loads use the original weights again. False if nothing was kept."""
        found = False
        for spec in self._engines:
            if record.weights is not None:
                with suppress(ModelNotFound):
                    await self._models.delete(tuned_name(record.weights.digest, spec.name))
                    found = True
        return found

    def tune_later(self, record: StoredModel) -> None:
        """Tunes the model in the background, unless that has been done or tried, or is under way. Errors are logged."""
        if record.weights is None or record.weights.digest in self._tasks or record.weights.digest in self._failed:
            return
        digest = record.weights.digest
        task = asyncio.create_task(self._tune_quietly(record), name=f"tune {record.name.short}")
        self._tasks[digest] = task
        task.add_done_callback(lambda _: self._tasks.pop(digest, None))

    async def aclose(self) -> None:
        """Ends what runs in the background; it leaves nothing behind."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _tune_quietly(self, record: StoredModel) -> None:
        assert record.weights is not None
        try:
            _log.info("tuning %s in the background", record.name.short)
            report = await self.tune(record, on_progress=lambda share: None)
            if report.kept:
                if report.recommended is None:  # so that it is not tried again
                    await self._models.publish(_name(record, report.engine), record.content())
                _log.info("tuned %s: %s", record.name.short, report.recommended or "the original is best")
                return
            reasons = "; ".join(f"{row.kind}: {row.refused}" for row in report.rows)
            _log.warning("could not tune %s: %s", record.name.short, reasons)
        except CorralError as error:
            _log.warning("could not tune %s: %s", record.name.short, error.message)
        self._failed.add(record.weights.digest)

    async def _candidate(
        self, record: StoredModel, kind: QuantizationType, trials: AsyncExitStack, report: OnLoadProgress
    ) -> StoredModel | Trial:
        """The model if the store has it, otherwise files that end with `trials`."""
        parameters: Mapping[str, Any] = {"type": kind, "requantize": True}
        found = await self._deriver.existing(record, QUANTIZER, parameters)
        if found is not None:
            return found
        return await trials.enter_async_context(
            self._deriver.tried(
                record, QUANTIZER, parameters=parameters, on_progress=lambda share: report(_QUANTIZED * share)
            )
        )

    async def _compare(
        self, record: StoredModel, candidate: StoredModel | Trial, most_kl: float, report: OnLoadProgress
    ) -> Comparison:
        def compared(share: float) -> None:
            report(_QUANTIZED + (1 - _QUANTIZED) * share)

        path = None
        if isinstance(candidate, Trial):
            path, candidate = candidate.weights, await asyncio.to_thread(_as_model, candidate)
        return await self._comparer.compare(
            record, candidate, candidate_weights=path, enough_kl=most_kl, on_progress=compared
        )

    async def _keep(self, record: StoredModel, engine: str, chosen: StoredModel | Trial | None) -> None:
        name = _name(record, engine)
        if isinstance(chosen, Trial):
            await self._deriver.keep(chosen, name)
        elif chosen is not None:
            await self._models.publish(name, chosen.content())
        else:
            with suppress(ModelNotFound):
                await self._models.delete(name)


def _as_model(trial: Trial) -> StoredModel:
    """The original, with the size and the type of the weights that were tried. Blocking."""
    [weights] = trial.record.files_of("weights")
    tried = msgspec.structs.replace(weights, size_bytes=trial.weights.stat().st_size)
    return msgspec.structs.replace(trial.record, files=(tried,), quantization=trial.result.quantization)


def _name(record: StoredModel, engine: str) -> ModelName:
    assert record.weights is not None
    return tuned_name(record.weights.digest, engine)


def _row(kind: QuantizationType, found: Comparison, most_kl: float) -> TuneRow:
    refused = ""
    if found.kl_divergence > most_kl:
        refused = f"its predictions differ by {found.kl_divergence:.3g}, more than {most_kl:g}"
    elif found.reference.exact and not found.candidate.exact:
        refused = "its texts would depend on what else runs"
    return TuneRow(kind=kind, comparison=found, gain=gain_of(found), refused=refused)
