"""Which engine takes a model, in which runner, and with which load options."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from corral.core.containment import contained, short_line
from corral.core.errors import (
    CorralError,
    EngineNotInstalled,
    InvalidOption,
    LoadFailed,
    NoEngine,
    PluginError,
    UnknownEngine,
)
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.models.names import ModelName
from corral.core.ports.runners import Runner
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import EngineSpec, Match
from corral.core.specs.installation import missing_packages
from corral.core.wording.left_out import remarks
from corral.core.wording.pip_lines import install_line

__all__ = (
    "ANY_MODEL",
    "Candidate",
    "EngineChooser",
    "check_match",
    "choose_runner",
    "estimate_bytes",
    "fits",
    "ignored_load_options",
    "typed_load_options",
)

_log = logging.getLogger(__name__)

_ELSEWHERE = "corral engines --verbose lists what each engine runs; plugins can add more"
_COMPILERS = ("c++", "g++", "clang++", "cl")


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An engine and what it says to a model. `missing` is what keeps it from running here, empty where nothing does."""

    spec: EngineSpec
    match: Match
    missing: str = ""
    install_hint: str | None = None


class EngineChooser:
    """Chooses among `specs`. `order` are names of engines that come before others which suit a model equally well.

    `left_out` has a sentence for each plugin that is not there, for errors about engines that are missing.

    What is installed is looked up when it first matters; what was missing is looked up again each time.
    """

    def __init__(
        self,
        specs: Sequence[EngineSpec],
        converters: Sequence[ConverterSpec] = (),
        order: Sequence[str] = (),
        left_out: Mapping[str, str] = {},
    ) -> None:
        ranks = {name: rank for rank, name in enumerate(order)}
        self._specs = sorted(specs, key=lambda spec: ranks.get(spec.name, len(ranks)))
        self._converters = {converter.name: converter for converter in converters}
        self._there: set[str] = set()
        self._left_out = left_out
        self._complained: set[tuple[str, str]] = set()

    def choose(
        self,
        record: StoredModel,
        metadata: ModelMetadata | None,
        name: str | None = None,
        tasks: Collection[str] = (),
    ) -> Candidate:
        """The best match among the installed engines that can do one of `tasks`, or the engine of that name.

        If none of the installed engines can do them, it is the best match all the same. Raises `NoEngine` with every
        engine's own reason where none takes the model, or the named one does not, and `EngineNotInstalled` with the
        pip line where those that would are not installed. `UnknownEngine` for a name that no engine has.
        """
        if name is not None:
            return self._named(name, record, metadata)
        matches = [(spec, self._match(spec, record, metadata)) for spec in self._specs]
        able: list[Candidate] = []
        unsuited: list[Candidate] = []
        for spec, match in sorted(matches, key=lambda one: -one[1].score):
            if match.score <= 0:
                break
            candidate = self._candidate(spec, match)
            if candidate.missing:
                able.append(candidate)
            elif tasks and spec.tasks and spec.tasks.isdisjoint(tasks):
                unsuited.append(candidate)
            else:
                return candidate
        if unsuited:
            return unsuited[0]
        if able:
            raise _not_installed(f"no engine that can run {record.name.short} is installed", able)
        reasons = "; ".join(f"{spec.name}: {match.reason}" for spec, match in matches)
        remedy = "; ".join((_ELSEWHERE, *remarks(self._left_out, record.format)))
        raise NoEngine(f"no engine can run {record.name.short} ({reasons or 'there is none'})", remedy)

    def candidates(self, record: StoredModel, metadata: ModelMetadata | None) -> list[Candidate]:
        """What every engine says to the model, in the order that breaks ties."""
        return [self._candidate(spec, self._match(spec, record, metadata)) for spec in self._specs]

    def require(self, name: str | None = None) -> None:
        """What can be said before the model is there: raises `EngineNotInstalled` where the engine of that name lacks
        its packages, or without a name every engine that runs files of this machine does; `UnknownEngine` as
        `choose` does.

        Engines that run only where they are asked for by name do not count.
        """
        if name is not None:
            _require_installed(self._candidate(self._spec(name), _UNASKED))
            return
        candidates = self.candidates(ANY_MODEL, None)
        counted = [one for one in candidates if one.spec.form != "running" and one.match.score >= 0]
        if counted and all(candidate.missing for candidate in counted):
            raise _not_installed("no engine is installed", counted)

    def _named(self, name: str, record: StoredModel, metadata: ModelMetadata | None) -> Candidate:
        spec = self._spec(name)
        match = self._match(spec, record, metadata)
        if match.score == 0:
            others = [one.name for one in self._specs if self._match(one, record, metadata).score > 0]
            remedy = f"engines that can run it: {', '.join(others)}" if others else _ELSEWHERE
            raise NoEngine(f"the {name} engine cannot run {record.name.short}: {match.reason}", remedy)
        candidate = self._candidate(spec, match)
        _require_installed(candidate)
        return candidate

    def _spec(self, name: str) -> EngineSpec:
        for spec in self._specs:
            if spec.name == name:
                return spec
        known = ", ".join(spec.name for spec in self._specs)
        remedy = "; ".join((*remarks(self._left_out, name), f"known engines: {known or 'none'}"))
        raise UnknownEngine(f"there is no engine {name!r}", remedy)

    def _candidate(self, spec: EngineSpec, match: Match) -> Candidate:
        missing, hint = self._missing(spec), install_line(spec)
        if not missing and match.converter is not None:
            converter = self._converters[match.converter]
            missing, hint = self._missing(converter), install_line(converter)
        return Candidate(spec=spec, match=match, missing=missing, install_hint=hint)

    def _match(self, spec: EngineSpec, record: StoredModel, metadata: ModelMetadata | None) -> Match:
        try:
            match = check_match(contained(spec.match, record, metadata))
        except Exception as error:  # a plugin's fault is no reason to be without the other engines
            said = f"{type(error).__name__}: {short_line(error)}"
            if (spec.name, said) not in self._complained:  # once, not once for each model
                self._complained.add((spec.name, said))
                _log.warning("the %s engine's match failed for %s: %s", spec.name, record.name.short, said)
                _log.debug("the match of %s", spec.name, exc_info=True)
            return Match(score=0, reason=f"its match failed: {said}")
        unfit = _unfit(spec, record, metadata) if match.score != 0 else None
        if unfit is not None:
            return Match(score=0, reason=unfit)
        if match.converter is None:
            return match
        if match.converter not in self._converters:
            return Match(score=0, reason=f"needs the {match.converter} converter, which is not registered")
        if record.files_of("adapter"):
            return Match(score=0, reason="needs a conversion, which would drop the model's adapter")
        return match

    def _missing(self, spec: EngineSpec | ConverterSpec) -> str:
        key = f"{type(spec).__name__} {spec.name}"
        if key in self._there:
            return ""
        missing = missing_packages(spec)
        if not missing:
            self._there.add(key)
        return missing


def _unfit(spec: EngineSpec, record: StoredModel, metadata: ModelMetadata | None) -> str | None:
    """Why the answers would not be the model's, whatever the engine says; None where they would."""
    if record.files_of("adapter") and not spec.adapters:
        return "does not support adapters, and without its adapter this model would give different answers"
    if metadata is not None:
        if metadata.keys.get("general.type") == "adapter":
            return "an adapter is not a model of its own"
        parts = metadata.keys.get("split.count")
        if isinstance(parts, int) and parts > 1:
            return f"the weights are one of {parts} parts; join them with llama-gguf-split --merge"
    return None


_UNASKED = Match(score=1, reason="")
ANY_MODEL = StoredModel(
    name=ModelName(model="any"), digest=digest_of(b""), size_bytes=0, modified_at=0.0, format="gguf"
)


def _ease(candidate: Candidate) -> tuple[bool, int]:
    """What can be installed here before what cannot, then the better match."""
    return not candidate.spec.compiled or any(map(shutil.which, _COMPILERS)), candidate.match.score


def _hint(candidate: Candidate) -> str | None:
    return candidate.install_hint or install_line(candidate.spec)


def _require_installed(candidate: Candidate) -> None:
    if candidate.missing:
        raise EngineNotInstalled(
            f"the {candidate.spec.name} engine cannot run here: {candidate.missing}", _hint(candidate)
        )


def _not_installed(what: str, able: Sequence[Candidate]) -> EngineNotInstalled:
    """The pip line of the best is the remedy; the message tells what else would do."""
    best = max(able, key=_ease)
    told = ", ".join(f"{candidate.spec.name} ({candidate.missing})" for candidate in able)
    others = dict.fromkeys(hint for candidate in able if (hint := _hint(candidate)) and hint != _hint(best))
    also = f"; {' or '.join(others)} would work too" if others else ""
    return EngineNotInstalled(f"{what}: {told}{also}", _hint(best))


def choose_runner(spec: EngineSpec, runners: Mapping[str, Runner], preferred: str) -> Runner:
    """The preferred runner where the engine allows it, else the first it allows. Raises `NoEngine`."""
    for name in (preferred, *spec.runners):
        if name in spec.runners and name in runners:
            return runners[name]
    raise NoEngine(f"the {spec.name} engine runs in {' or '.join(spec.runners)}, but that runner is not available")


def typed_load_options(spec: EngineSpec, *layers: Mapping[str, Any]) -> Any:
    """The engine's own Struct, later layers winning and null meaning "not given"; None for an engine without options.

    Names that the engine does not have are passed over: they may be another engine's. Raises `InvalidOption`.
    """
    if spec.load_options is None:
        return None
    known = spec.load_options.__struct_fields__
    given = (one for layer in layers for one in layer.items())
    merged = {name: value for name, value in given if value is not None and name in known}
    try:
        return msgspec.convert(merged, spec.load_options, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"load options of the {spec.name} engine: {error}") from error


def ignored_load_options(spec: EngineSpec, wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """Those asked for that the engine does not have. `num_ctx` goes with each request too, which answers for it."""
    known = () if spec.load_options is None else spec.load_options.__struct_fields__
    return tuple(name for name in wanted if name not in known and name != "num_ctx")


def fits(spec: EngineSpec, loaded: Any, wanted: Any) -> bool:
    """Whether a model loaded with one set of options serves another without a reload."""
    if loaded == wanted or spec.fits is None:
        return bool(loaded == wanted)
    try:
        return bool(contained(spec.fits, loaded, wanted))
    except Exception:  # a plugin's fault costs another load, and nobody's request
        _log.exception("the %s engine's fits failed", spec.name)
        return False


def estimate_bytes(
    spec: EngineSpec, record: StoredModel, metadata: ModelMetadata | None, options: Any
) -> Mapping[str, int]:
    """What the engine says that the model will take, by device. Raises `LoadFailed` where it says no such thing: a load
    whose size nobody knows could take everybody's memory.
    """
    try:
        estimate = contained(spec.estimate, record, metadata, options)
        return {_device(device): _byte_count(count) for device, count in estimate.items()}
    except Exception as error:
        if isinstance(error, CorralError) and not isinstance(error, PluginError):
            raise  # it says on purpose that this does not go
        said = f"{type(error).__name__}: {short_line(error)}"
        raise LoadFailed(
            f"the {spec.name} engine's estimate for {record.name.short} failed: {said}",
            "this is a bug in the engine's plugin; another engine may run the model",
        ) from error


def _device(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a device name must be a string, not {short_line(repr(name), 60)}")
    return name


def _byte_count(count: object) -> int:
    if isinstance(count, bool) or not isinstance(count, int | float) or not 0 <= count < 1 << 62:
        raise ValueError(f"bytes must be a number of 0 or more, not {short_line(repr(count), 60)}")
    return int(count)


def check_match(match: object) -> Match:
    """A match as the choice needs it. Raises `TypeError` for what is none."""
    if not isinstance(match, Match):
        raise TypeError(f"it gave {short_line(repr(match), 60)} instead of a Match")
    if isinstance(match.score, bool) or not isinstance(match.score, int | float) or not -1e9 < match.score < 1e9:
        raise TypeError(f"its score is {short_line(repr(match.score), 60)}")
    if match.converter is not None and not isinstance(match.converter, str):
        raise TypeError(f"its converter is {short_line(repr(match.converter), 60)}")
    return Match(score=match.score, reason=short_line(match.reason), converter=match.converter)
