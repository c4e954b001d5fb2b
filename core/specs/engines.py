"""What an engine plugin registers, `EngineSpec`, and what an engine gets when it loads a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from corral.core.models.model import FileRole, Model, ModelMetadata, RemoteModel, StoredModel
from corral.core.models.quantization_types import QuantizationType
from corral.core.requests.outputs import Output
from corral.core.requests.requests import Request
from corral.core.values import Value

__all__ = ("Derivation", "Device", "EngineSpec", "LoadRequest", "LocalFile", "Match", "options_fit", "vocabulary_spec")

RunnerName = Literal["process", "thread", "event_loop"]


class Derivation(Value, frozen=True, kw_only=True):
    """A model converted from another one: by which converter, with which parameters; others keep their defaults."""

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
    """A device that computes: its `kind` (``cpu``, ``cuda``, ``metal``, …), its name, and its memory if known."""

    kind: str
    name: str
    total_bytes: int | None = None
    free_bytes: int | None = None


class LocalFile(Value, frozen=True, kw_only=True):
    """A file of the model, at a path that the engine can open; `digest` is that of its content, None if unknown.
    `scale` is how strongly an adapter is applied.
    """

    role: FileRole
    path: str
    name: str | None = None
    digest: str | None = None
    scale: float = 1.0


class LoadRequest(Value, frozen=True, kw_only=True):
    """What an engine gets to load. `load_options` is an instance of its spec's `load_options`, as plain data.

    Engines turn it back with ``msgspec.convert(request.load_options, MyLoadOptions)``. The files of a folder model have
    their `name`s under one folder, so that they find each other. An upstream has no
    files: `remote` says where it lives. `cache_folder` is where engines may keep what they have computed, beyond this
    load; it is local, need not exist yet, and is shared by all models of the store; None if there is none.
    `close_grace_s` is how long closing the engine may take.
    """

    model: str
    files: tuple[LocalFile, ...]
    load_options: Mapping[str, Any] = {}
    remote: RemoteModel | None = None
    cache_folder: str | None = None
    close_grace_s: float = 5.0


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An engine, described by pure data and pure functions: importing one never imports native code.

    `load` is the import path ``package.module:function`` of ``(LoadRequest, on_progress) -> StepEngine |
    GeneratorEngine | RunningModel``, by `form`; one of form ``running`` may be a coroutine function. `runners` are
    those it allows, preferred first. `match` gets the model, its metadata, and the load options it would have: an
    instance of `load_options`, or None without. The metadata is None if there are no weights (an upstream) or no reader
    knows their format. `estimate` gets the same and returns bytes by device. `load_options` is a msgspec Struct type
    whose fields all have defaults; its ``__post_init__`` may refuse options that contradict each other with
    `InvalidOption`, before anything is unloaded to make room. `fits(loaded, wanted)` says whether a model loaded with
    one set of load options serves another without a reload: see `options_fit`.

    `vocabulary` is the import path of a function ``(LoadRequest, on_progress) -> Engine`` like `load`, for those who
    only tokenize: without reading the weights, it opens the tokenizer that the loaded model would have, with the same
    `control_tokens` in its `ModelInfo`, the feature ``tokenize``, and no task. It gets no load options. Without it, the
    model is loaded.

    `tasks` are those that it may support; an engine without the task of a request is chosen last. What a loaded model
    supports is in its `ModelInfo`. `takes` says in words what the engine runs. `devices` is the import path of
    ``() -> Sequence[Device]``, called in a child process, as is `compare`, a function ``(CompareRequest, on_progress)
    -> Comparison`` for two models that it runs. `reencodings` are the types of weights that ``corral tune`` tries, and
    ``reencoding(load_options)`` says whether that happens by itself: ``off``, ``auto``, or a type that all weights get
    before they are loaded. `requirement` is the distribution and version it needs
    (``llama-cpp-python==0.3.36``), `module` the module that must be importable, `needs` further ones, `install_hint`
    the command that installs them; one that begins with ``pip install`` is shown with the path of this Python.
    `compiled`: there are no wheels, so pip needs a C++ compiler. `adapters`: it loads LoRA adapters; other engines
    refuse models that have one.
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
    vocabulary: str | None = None
    devices: str | None = None
    compare: str | None = None
    reencodings: tuple[QuantizationType, ...] = ()
    reencoding: Callable[[Any], str] | None = None
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


def vocabulary_spec(spec: EngineSpec) -> EngineSpec | None:
    """The engine that only opens the vocabularies of this engine's models; None if there is none. Runners load it like
    any other.
    """
    if spec.vocabulary is None:
        return None
    isolating: tuple[RunnerName, ...] = tuple([name for name in spec.runners if name != "event_loop"])
    return msgspec.structs.replace(
        spec,
        form="generator",
        load=spec.vocabulary,
        vocabulary=None,
        runners=isolating or ("thread", "process"),
        tasks=frozenset(),
        load_options=None,
        fits=None,
    )


def options_fit(loaded: Any, wanted: Any, at_most: Mapping[str, float | None]) -> bool:
    """Whether a model that was `loaded` with some options serves a request for the `wanted` ones without a reload.

    Options left at their default fit; others must be equal. For those in `at_most`, less than what was loaded fits too;
    its values are what None stands for, or None if that is not known.
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
