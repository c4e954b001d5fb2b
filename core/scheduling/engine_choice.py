"""Chooses which engine runs a model, with which load options, and in which runner."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from corral.core.containment import contained, short_line
from corral.core.errors import EngineNotInstalled, InvalidOption, NoEngine, UnknownEngine
from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.ports.runners import Runner
from corral.core.scheduling.load_options import (
    YieldingOption,
    ignored_load_options,
    settled_load_options,
    typed_load_options,
)
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import EngineSpec, Match
from corral.core.specs.installation import Installation
from corral.core.specs.spec_calls import check_match
from corral.core.wording.left_out import remarks
from corral.core.wording.pip_lines import install_line

__all__ = (
    "ANY_MODEL",
    "Candidate",
    "EngineChooser",
    "choose_runner",
    "lost_adapter",
)

_log = logging.getLogger(__name__)

_ELSEWHERE = "corral engines --verbose lists what each engine runs; plugins can add more"
_COMPILERS = ("c++", "g++", "clang++", "cl")


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An engine, the load options it would get (its own Struct), and how well it suits a model with them.

    `missing` says what it needs that is not installed; empty if nothing. `ignored` are requested load options that it
    does not have. `fault` is what is wrong with the requested ones; `options` are then those of the settings.
    `provisional`: another engine suits the model better, but is not installed.
    """

    spec: EngineSpec
    match: Match
    options: Any = None
    ignored: tuple[str, ...] = ()
    fault: InvalidOption | None = None
    missing: str = ""
    install_hint: str | None = None
    provisional: bool = False


class EngineChooser:
    """Chooses among `specs`. `order` names engines that come before others that suit a model equally well.

    `settings` are load options by engine, which those of a request override; those that are `yielding` also give way to
    others that contradict them. `left_out` has a sentence for each plugin that was not loaded, for errors about missing
    engines. What is installed is looked up when it first matters; what was missing is looked up again each time.
    """

    def __init__(
        self,
        specs: Sequence[EngineSpec],
        converters: Sequence[ConverterSpec] = (),
        *,
        installation: Installation,
        order: Sequence[str] = (),
        left_out: Mapping[str, str] = {},
        settings: Mapping[str, Mapping[str, Any]] = {},
        yielding: Mapping[str, Mapping[str, YieldingOption]] = {},
    ) -> None:
        ranks = {name: rank for rank, name in enumerate(order)}
        self._specs = sorted(specs, key=lambda spec: ranks.get(spec.name, len(ranks)))
        self._converters = {converter.name: converter for converter in converters}
        self._there: set[str] = set()
        self._installation = installation
        self._left_out = left_out
        self._settings = settings
        self._yielding = yielding
        self._complained: set[tuple[str, str]] = set()

    def choose(
        self,
        record: StoredModel,
        metadata: ModelMetadata | None,
        name: str | None = None,
        tasks: Collection[str] = (),
        load_options: Mapping[str, Any] = {},
    ) -> Candidate:
        """The best match among the installed engines that can do one of `tasks`, or the engine of that name.

        If no installed engine can do any of them, the best match is chosen anyway. Raises `InvalidOption` for a load
        option of the wrong type; `NoEngine`, with the reason of each engine, if none takes the model or the named one
        does not; `EngineNotInstalled`, with the pip line, if those that would are not installed; `UnknownEngine` for a
        name that no engine has.
        """
        chosen = self._choose(record, metadata, name, tasks, load_options)
        if chosen.fault is not None:
            raise chosen.fault
        return chosen

    def _choose(
        self,
        record: StoredModel,
        metadata: ModelMetadata | None,
        name: str | None,
        tasks: Collection[str],
        load_options: Mapping[str, Any],
    ) -> Candidate:
        if name is not None:
            return self._named(name, record, metadata, load_options)
        matches = [self._matched(spec, record, metadata, load_options) for spec in self._specs]
        able: list[Candidate] = []
        unsuited: list[Candidate] = []
        for one in sorted(matches, key=lambda one: -one.match.score):
            if one.match.score <= 0:
                break
            candidate = self._checked(one)
            if candidate.missing:
                able.append(candidate)
            elif tasks and one.spec.tasks and one.spec.tasks.isdisjoint(tasks):
                unsuited.append(candidate)
            else:
                return msgspec.structs.replace(candidate, provisional=bool(able))
        if unsuited:
            return msgspec.structs.replace(unsuited[0], provisional=bool(able))
        if able:
            raise _not_installed(f"no engine that can run {record.name.short} is installed", able)
        reasons = "; ".join(f"{one.spec.name}: {one.match.reason}" for one in matches)
        remedy = "; ".join((_ELSEWHERE, *remarks(self._left_out, record.format)))
        raise NoEngine(f"no engine can run {record.name.short} ({reasons or 'there is none'})", remedy)

    def candidates(self, model: Model, metadata: ModelMetadata | None) -> list[Candidate]:
        """All engines with how well they suit the model, in the order that breaks ties."""
        return [self._checked(self._matched(spec, model, metadata)) for spec in self._specs]

    def require(self, name: str | None = None) -> None:
        """Check what can be checked without a model.

        Raises `EngineNotInstalled` if the named engine lacks its packages or, without a name, if all engines that run
        local files do. Engines that run only if they are named do not count. Raises `UnknownEngine` as `choose` does.
        """
        if name is not None:
            _require_installed(self._checked(Candidate(spec=self._spec(name), match=_UNASKED)))
            return
        candidates = self.candidates(ANY_MODEL, None)
        counted = [one for one in candidates if one.spec.form != "running" and one.match.score >= 0]
        if counted and all(candidate.missing for candidate in counted):
            raise _not_installed("no engine is installed", counted)

    def _named(
        self, name: str, record: StoredModel, metadata: ModelMetadata | None, load_options: Mapping[str, Any]
    ) -> Candidate:
        named = self._matched(self._spec(name), record, metadata, load_options)
        if named.match.score == 0:
            all_of_them = (self._matched(spec, record, metadata, load_options) for spec in self._specs)
            others = [one.spec.name for one in all_of_them if one.match.score > 0]
            remedy = f"engines that can run it: {', '.join(others)}" if others else _ELSEWHERE
            raise NoEngine(f"the {name} engine cannot run {record.name.short}: {named.match.reason}", remedy)
        candidate = self._checked(named)
        _require_installed(candidate)
        return candidate

    def _spec(self, name: str) -> EngineSpec:
        for spec in self._specs:
            if spec.name == name:
                return spec
        known = ", ".join(spec.name for spec in self._specs)
        remedy = "; ".join((*remarks(self._left_out, name), f"known engines: {known or 'none'}"))
        raise UnknownEngine(f"there is no engine {name!r}", remedy)

    def _matched(
        self,
        spec: EngineSpec,
        model: Model,
        metadata: ModelMetadata | None,
        load_options: Mapping[str, Any] = {},
    ) -> Candidate:
        settings = self._settings.get(spec.name, {})
        fault = None
        try:
            options = settled_load_options(spec, settings, load_options, self._yielding.get(spec.name, {}))
        except InvalidOption as error:
            options, fault = typed_load_options(spec, settings), error
        return Candidate(
            spec=spec,
            match=self._match(spec, model, metadata, options),
            options=options,
            ignored=ignored_load_options(spec, load_options),
            fault=fault,
        )

    def _checked(self, candidate: Candidate) -> Candidate:
        """The candidate with what is missing, and how to install it."""
        missing, hint = self._missing(candidate.spec), install_line(candidate.spec)
        if not missing and candidate.match.derive is not None:
            converter = self._converters[candidate.match.derive.converter]
            missing, hint = self._missing(converter), install_line(converter)
        return msgspec.structs.replace(candidate, missing=missing, install_hint=hint)

    def _match(self, spec: EngineSpec, model: Model, metadata: ModelMetadata | None, options: Any) -> Match:
        try:
            match = check_match(contained(spec.match, model, metadata, options))
        except Exception as error:  # a faulty plugin must not keep other engines from being used
            said = f"{type(error).__name__}: {short_line(error)}"
            if (spec.name, said) not in self._complained:  # once, not for each model
                self._complained.add((spec.name, said))
                name = model.name.short if isinstance(model, StoredModel) else "a model"
                _log.warning("the %s engine's match failed for %s: %s", spec.name, name, said)
                _log.debug("the match of %s", spec.name, exc_info=True)
            return Match(score=0, reason=f"its match failed: {said}")
        unfit = _unfit(spec, model, metadata) if match.score != 0 else None
        if unfit is not None:
            return Match(score=0, reason=unfit)
        if match.derive is None:
            return match
        if match.derive.converter not in self._converters:
            return Match(score=0, reason=f"needs the {match.derive.converter} converter, which is not registered")
        if model.files_of("adapter"):
            return Match(score=0, reason="needs a conversion, which would drop the model's adapter")
        return match

    def _missing(self, spec: EngineSpec | ConverterSpec) -> str:
        key = f"{type(spec).__name__} {spec.name}"
        if key in self._there:
            return ""
        missing = self._installation.missing(spec)
        if not missing:
            self._there.add(key)
        return missing


def lost_adapter(spec: EngineSpec, model: Model) -> str | None:
    """Why the engine must not load the model: it would ignore the model's adapter. None if it may."""
    if model.files_of("adapter") and not spec.adapters:
        return "does not support adapters, and without its adapter this model would give different answers"
    return None


def _unfit(spec: EngineSpec, model: Model, metadata: ModelMetadata | None) -> str | None:
    """Why the engine must not run the model, even if its `match` accepts it: the answers would be wrong. None if it
    may.
    """
    lost = lost_adapter(spec, model)
    if lost is not None:
        return lost
    if metadata is not None:
        if metadata.keys.get("general.type") == "adapter":
            return "an adapter is not a model of its own"
        parts = metadata.keys.get("split.count")
        if isinstance(parts, int) and parts > 1:
            return f"the weights are one of {parts} parts; importing or pulling the model again joins them"
    return None


_UNASKED = Match(score=1, reason="")
ANY_MODEL = Model(format="gguf")


def _ease(candidate: Candidate) -> tuple[bool, int]:
    """A sort key: what can be installed here comes before what cannot, then the better match."""
    return not candidate.spec.compiled or any(map(shutil.which, _COMPILERS)), candidate.match.score


def _hint(candidate: Candidate) -> str | None:
    return candidate.install_hint or install_line(candidate.spec)


def _require_installed(candidate: Candidate) -> None:
    if candidate.missing:
        raise EngineNotInstalled(
            f"the {candidate.spec.name} engine cannot run here: {candidate.missing}", _hint(candidate)
        )


def _not_installed(what: str, able: Sequence[Candidate]) -> EngineNotInstalled:
    """The remedy is the pip line of the best; the message names the others."""
    best = max(able, key=_ease)
    listed = ", ".join(f"{candidate.spec.name} ({candidate.missing})" for candidate in able)
    others = dict.fromkeys(hint for candidate in able if (hint := _hint(candidate)) and hint != _hint(best))
    also = f"; {' or '.join(others)} would work too" if others else ""
    return EngineNotInstalled(f"{what}: {listed}{also}", _hint(best))


def choose_runner(spec: EngineSpec, runners: Mapping[str, Runner], preferred: str) -> Runner:
    """The preferred runner if the engine allows it, else the first that it allows. Raises `NoEngine`."""
    for name in (preferred, *spec.runners):
        if name in spec.runners and name in runners:
            return runners[name]
    raise NoEngine(f"the {spec.name} engine runs in {' or '.join(spec.runners)}, but that runner is not available")
