"""What an engine plugin registers, `EngineSpec`, and what an engine is handed to load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from corral.core.models.model import FileRole, Model, ModelMetadata, RemoteModel, StoredModel
from corral.core.requests.outputs import Output
from corral.core.requests.requests import Request
from corral.core.values import Value

__all__ = ("Derivation", "Device", "EngineSpec", "LoadRequest", "LocalFile", "Match", "options_fit")

RunnerName = Literal["process", "thread", "event_loop"]


class Derivation(Value, frozen=True, kw_only=True):
    """A model made from another one: by which converter, with which of its parameters; others keep their defaults."""

    converter: str
    parameters: Mapping[str, Any] = {}


class Match(Value, frozen=True, kw_only=True):
    """How well an engine suits a model: 0 means that it cannot run it, and the highest score wins. `reason` is a
    sentence for people.

    A negative score means that it can, but only if it is asked for by name. With `derive`, the engine loads what the
    converter makes of the model, in its place.
    """

    score: int
    reason: str
    derive: Derivation | None = None


class Device(Value, frozen=True, kw_only=True):
    """Something that computes: `kind` (``cpu``, ``cuda``, ``metal``, …), its name, and its memory where known."""

    kind: str
    name: str
    total_bytes: int | None = None
    free_bytes: int | None = None


class LocalFile(Value, frozen=True, kw_only=True):
    """A model's file where the engine can open it."""

    role: FileRole
    path: str
    name: str | None = None


class LoadRequest(Value, frozen=True, kw_only=True):
    """What an engine gets to load. `load_options` is an instance of its spec's `load_options`, as plain data.

    Engines turn it back with ``msgspec.convert(request.load_options, MyLoadOptions)``. The files of a folder model have
    their `name`s under one folder, so ``genai_config.json`` lies where the others are looked for. An upstream has no
    files: `remote` says where it lives.
    """

    model: str
    files: tuple[LocalFile, ...]
    load_options: Mapping[str, Any] = {}
    remote: RemoteModel | None = None


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An engine, described by pure data and pure functions: importing one never imports native code.

    `load` is the import path ``package.module:function`` of ``(LoadRequest, on_progress) -> StepEngine |
    GeneratorEngine | RunningModel``, by `form`; one of form ``running`` may be a coroutine function. `runners` are
    those it allows, preferred first. `match` gets the model, its metadata, and the load options it would have: an
    instance of `load_options`, or None without. The metadata is None if there are no weights (an upstream) or no reader
    knows their format. `estimate` gets the same and returns bytes by device. `load_options` is
    a msgspec Struct type, every field of which has a default. `fits(loaded, wanted)` says whether a model
    loaded with one set of load options serves another without a reload: see `options_fit`.

    `tasks` are those it may have; an engine that lacks the task of a request is chosen last. What a model really has is
    in its `ModelInfo`. `takes` says in words what it runs. `devices` is the import path of ``() -> Sequence[Device]``,
    called in a child process. `requirement` is the distribution and version it needs (``llama-cpp-python==0.3.36``),
    `module` the import to look for, `needs` further ones, `install_hint` the line that installs them; one that
    begins with ``pip install`` is shown as this Python's own pip. `compiled`: there are no wheels, so that pip needs a
    C++ compiler.
    `adapters`: it loads the model's LoRA adapters; a model that has one is refused for any other engine.
    """

    name: str
    summary: str
    form: Literal["step", "generator", "running"]
    load: str
    match: Callable[[Model, ModelMetadata | None, Any], Match]
    estimate: Callable[[StoredModel, ModelMetadata | None, Any], Mapping[str, int]]
    runners: tuple[RunnerName, ...] = ("process", "thread")
    tasks: frozenset[str] = frozenset({"completion"})
    takes: str = ""
    devices: str | None = None
    load_options: type[msgspec.Struct] | None = None
    fits: Callable[[Any, Any], bool] | None = None
    request_types: tuple[type[Request], ...] = ()
    output_types: tuple[type[Output], ...] = ()
    api_version: tuple[int, int] = (1, 0)
    module: str | None = None
    requirement: str | None = None
    needs: tuple[str, ...] = ()
    install_hint: str | None = None
    compiled: bool = False
    adapters: bool = False


def options_fit(loaded: Any, wanted: Any, at_most: Mapping[str, float | None]) -> bool:
    """Whether a wish for load options, of the same Struct as those `loaded`, is served without another load.

    A wish left at its default is; any other must be what was loaded. Of the options in `at_most` less than was loaded
    serves too, and the value there is what None stands for; None again where that is not known.
    """
    default = type(wanted)()
    for name in wanted.__struct_fields__:
        wish, have = getattr(wanted, name), getattr(loaded, name)
        if name in at_most:
            wish, have = (at_most[name] if number is None else number for number in (wish, have))
            if wish is not None and have is not None and wish <= have:
                continue
        if wish not in (have, getattr(default, name)):
            return False
    return True
