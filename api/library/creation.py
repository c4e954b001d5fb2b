"""What creates models and compares them, as methods of `AsyncCorral`."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from corral.api.library.arguments import checked, checked_callback, checked_options, checked_path, refuse_unknown
from corral.api.library.messages import spoken
from corral.api.modelfile.create_calls import call_of
from corral.api.modelfile.local_files import adapter_files_at, files_at, named_relatively
from corral.api.modelfile.parsing import decode_modelfile, parse_modelfile
from corral.core.catalog.create_calls import CreateCall, GivenAdapter, GivenFiles
from corral.core.conversion.results import quantized_name
from corral.core.conversion.tuning import TuneReport
from corral.core.errors import InvalidRequest, NotFound
from corral.core.models.model import StoredModel
from corral.core.models.names import parse_name
from corral.core.models.quantization_types import QuantizationType, quantization_type
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.sources import OnProgress, ignore_progress
from corral.core.requests.messages import Message
from corral.core.runtime import Runtime
from corral.core.specs.comparisons import Comparison

__all__ = ("AsyncCreation", "CreateOptions", "modelfile_call")

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class CreateOptions(TypedDict, total=False):
    """What a new model has instead of, or in addition to, what it is created from; what is absent stays as it is there.

    `files` are weights in GGUF, and projectors (or the folder of them); `adapters` are LoRA adapters, added to those of
    the other model: paths, or scales by path; `draft_files` a draft model. `template` is a Go template, `parameters`
    are options by name, merged with those of the other model; `messages` open each chat; `license` is a text, or
    several, appended. `renderer`, `parser` and `requires` are for Ollama. With `remote_host`, the model runs on that
    server. `info` overrides what the model says about itself. `quantize` and `draft_quantize` are the types that the
    weights and the draft model's are quantized to.
    """

    files: Paths
    adapters: Paths | Mapping[str, float]
    draft_files: Paths
    template: str
    system: str
    parameters: Mapping[str, Any]
    messages: Sequence[Message | Mapping[str, Any]]
    license: str | Sequence[str]
    renderer: str
    parser: str
    requires: str
    remote_host: str
    info: Mapping[str, Any]
    quantize: str
    draft_quantize: str


class AsyncCreation(ABC):
    """A base of `AsyncCorral`."""

    _name: str

    @abstractmethod
    async def runtime(self) -> Runtime: ...

    async def create(
        self, model: str, from_: str = "", *, on_progress: OnProgress | None = None, **how: Unpack[CreateOptions]
    ) -> StoredModel:
        """Creates a model from the model `from_`, which is pulled if it is missing, or from `files`.

        A name that is taken is replaced. Raises `InvalidRequest`, `NotFound` for a missing file, `InvalidModelFile`,
        `Unsupported` for what has to be converted first, and what `pull` raises.
        """
        refuse_unknown(f"{self._name}.create()", how, CreateOptions.__annotations__)
        report = checked_callback("on_progress", on_progress) or ignore_progress
        texts = ("template", "system", "renderer", "parser", "requires", "remote_host", "quantize", "draft_quantize")
        call = CreateCall(
            name=parse_name(checked("model", model, str)),
            base=checked("from_", from_, str),
            files=await _found("files", how.get("files", ())),
            adapters=await _adapters(how.get("adapters", ())),
            draft_files=await _found("draft_files", how.get("draft_files", ())),
            parameters=checked_options(how.get("parameters"), "parameters"),
            messages=await spoken(how.get("messages", ())),
            licenses=_licenses(how.get("license", ())),
            info=checked_options(how.get("info"), "info"),
            **{name: checked(name, how.get(name, ""), str) for name in texts},
        )
        return await (await self.runtime()).catalog.creator.create(call, report)

    async def quantize(
        self,
        model: str,
        type: str,
        name: str | None = None,
        *,
        requantize: bool = False,
        importance_matrix: str | os.PathLike[str] | None = None,
        on_progress: OnProgress | None = None,
    ) -> StoredModel:
        """Stores a model with the same weights in another type (``Q8_0``, ``Q4_K_M``, …), everything else unchanged.

        By default the name is the model's, with the type in its tag. Weights that are quantized already need
        `requantize`, and some types an `importance_matrix`, a file of llama-imatrix. Raises as `create`.
        """
        source = parse_name(checked("model", model, str))
        kind = checked("type", type, str)
        given = checked("name", name, str, None)
        target = quantized_name(source, kind) if given is None else parse_name(given)
        if target.key == source.key:
            raise InvalidRequest(f"{target.short} is the model itself", "choose another name for the result")
        matrix = None if importance_matrix is None else checked_path("importance_matrix", importance_matrix)
        runtime = await self.runtime()
        record = await runtime.catalog.get(source)  # a name that is missing is not pulled
        call = CreateCall(
            name=target,
            base=record.name.full,
            quantize=kind,
            requantize=checked("requantize", requantize, bool),
            importance_matrix=None if matrix is None else _absolute(matrix),
        )
        return await runtime.catalog.creator.create(
            call, checked_callback("on_progress", on_progress) or ignore_progress
        )

    async def compare(
        self,
        reference: str,
        candidate: str,
        *,
        text: str | os.PathLike[str] | None = None,
        speed: bool = True,
        on_progress: OnLoadProgress | None = None,
    ) -> Comparison:
        """How the model `candidate` differs from `reference`, which has the same vocabulary: see `Comparison`.

        `text` is a file; without it, a text that comes with Corral is used. `on_progress` gets the share done, 0 to 1.
        """
        names = (parse_name(checked("reference", reference, str)), parse_name(checked("candidate", candidate, str)))
        file = None if text is None else _absolute(checked_path("text", text))
        report = checked_callback("on_progress", on_progress) or (lambda share: None)
        runtime = await self.runtime()
        first, second = [await runtime.catalog.get(name) for name in names]
        return await runtime.comparer.compare(
            first, second, text=file, speed=checked("speed", speed, bool), on_progress=report
        )

    async def tune(
        self,
        model: str,
        *,
        types: Sequence[str] = (),
        most_kl: float = 0.01,
        keep: bool = True,
        on_progress: OnLoadProgress | None = None,
    ) -> TuneReport:
        """Finds the type in which this machine computes the weights of a model best, and loads that from now on.

        `types` are those to try, by default those that the engine suggests. At most `most_kl` may the predictions
        differ from the original's (KL divergence). With `keep` False, nothing is changed.
        """
        name = parse_name(checked("model", model, str))
        kinds = []
        for text in types:
            kind = quantization_type(checked("types", text, str))
            if kind is None:
                raise InvalidRequest(f"there is no type {text!r}", f"there are: {', '.join(QuantizationType)}")
            kinds.append(kind)
        report = checked_callback("on_progress", on_progress) or (lambda share: None)
        runtime = await self.runtime()
        return await runtime.tuner.tune(
            await runtime.catalog.get(name),
            types=kinds,
            most_kl=float(checked("most_kl", most_kl, float, int)),
            keep=checked("keep", keep, bool),
            on_progress=report,
        )

    async def tuned(self, model: str) -> dict[str, StoredModel]:
        """What engines load in place of the model's own weights, by engine, since it was tuned."""
        runtime = await self.runtime()
        return await runtime.tuner.tuned(await runtime.catalog.get(parse_name(checked("model", model, str))))

    async def untune(self, model: str) -> bool:
        """Loads the model's own weights again, whatever `tune` has kept. Returns False if that was nothing."""
        runtime = await self.runtime()
        return await runtime.tuner.undo(await runtime.catalog.get(parse_name(checked("model", model, str))))

    async def create_from_modelfile(
        self, model: str, modelfile: str | os.PathLike[str], *, on_progress: OnProgress | None = None
    ) -> StoredModel:
        """Creates the model that a Modelfile describes: a `Path` to one, or its text.

        Paths in it begin in its folder, those in a text in the current one. Raises `InvalidModelfile`, and as `create`.
        """
        report = checked_callback("on_progress", on_progress) or ignore_progress
        call = await asyncio.to_thread(modelfile_call, model, modelfile)
        return await (await self.runtime()).catalog.creator.create(call, report)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def modelfile_call(model: str, modelfile: str | os.PathLike[str]) -> CreateCall:
    """The call that creates `model` from a Modelfile, as `create_from_modelfile`. Blocking."""
    name = parse_name(checked("model", model, str))
    if isinstance(modelfile, str):
        return call_of(parse_modelfile(modelfile), name, Path.cwd())
    path = Path(checked_path("modelfile", modelfile))
    try:
        text = decode_modelfile(path.read_bytes())
    except OSError as error:
        raise NotFound(f"cannot read the Modelfile {path}: {error.strerror}") from error
    return call_of(parse_modelfile(text), name, path.parent)


async def _adapters(given: Paths | Mapping[str, float]) -> tuple[GivenAdapter, ...]:
    if isinstance(given, Mapping):
        scaled = list(given.items())
    else:
        scaled = [(path, 1.0) for path in (given if isinstance(given, list | tuple) else (given,))]
    return tuple(
        [
            GivenAdapter(
                files=await asyncio.to_thread(_adapter_at, checked_path("adapters", path)),
                scale=float(checked("adapters", scale, float, int)),
            )
            for path, scale in scaled
        ]
    )


async def _found(argument: str, paths: Paths) -> GivenFiles | None:
    several = paths if isinstance(paths, list | tuple) else (paths,)
    places = [checked_path(argument, path) for path in several]
    return await asyncio.to_thread(_files_at, places) if places else None


def _files_at(places: Sequence[str]) -> GivenFiles:
    return named_relatively(file for place in places for file in files_at(Path(place).expanduser()))


def _adapter_at(place: str) -> GivenFiles:
    return named_relatively(adapter_files_at(Path(place).expanduser()))


def _licenses(license: object) -> tuple[str, ...]:
    if isinstance(license, str):
        return (license,) if license else ()
    if isinstance(license, list | tuple) and all(isinstance(text, str) for text in license):
        return tuple(license)
    raise InvalidRequest("license: expected a text or a list of texts")
