"""`AsyncCorral`: runs models in this process, for code on an event loop."""

from __future__ import annotations

import builtins
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

from corral.api.library.answering import answering, chat_starter
from corral.api.library.arguments import (
    checked,
    checked_callback,
    checked_count,
    checked_ids,
    checked_options,
    checked_path,
    keep_alive_s,
    refuse_unknown,
    texts_of,
)
from corral.api.library.creation import AsyncCreation
from corral.api.library.housekeeping import AsyncHousekeeping
from corral.api.library.messages import Messages, images_read, spoken
from corral.api.library.method_names import names_its_methods
from corral.api.library.options import (
    ELSEWHERE,
    AnswerOptions,
    ChatOptions,
    CorralOptions,
    GenerateOptions,
    RequestOptions,
)
from corral.api.library.own_runtime import OwnRuntime
from corral.api.library.reranking import AsyncReranking
from corral.api.library.results import (
    ChatResult,
    Embeddings,
    GenerateResult,
    ModelDetails,
    chat_result,
    generate_result,
    model_details,
)
from corral.api.library.streams import AsyncStream
from corral.api.library.tokenizing import AsyncTokens
from corral.api.library.transferring import AsyncTransfers
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName, parse_name
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.sources import OnProgress, ignore_progress
from corral.core.requests.calls import EmbedCall, GenerateCall, LoadCall, UnloadCall
from corral.core.requests.outputs import Usage
from corral.core.requests.vectors import rows
from corral.core.runtime import Runtime
from corral.core.scheduling.leases import LoadedModel
from corral.core.scheduling.load_progress import LoadListener

__all__ = ("AsyncCorral",)


@names_its_methods
class AsyncCorral(AsyncCreation, AsyncHousekeeping, AsyncReranking, AsyncTokens, AsyncTransfers):
    """Runs models in this process, for code on an event loop. Nothing is read or loaded before the first use.

    Methods raise subclasses of `CorralError`; `TypeError` for an unknown keyword; and `RuntimeError` if this object is
    closed, or is used on a different event loop or in a different process than the first time.
    """

    _name = "AsyncCorral"

    def __init__(self, **setup: Unpack[CorralOptions]) -> None:
        self._runtime = OwnRuntime(self._name, setup)
        self._options = checked_options(setup.get("options"))

    async def __aenter__(self) -> Self:
        await self.runtime()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Unloads every model. May be called twice; afterwards every other call raises `RuntimeError`.

        Does nothing in a forked child, since everything there is to close belongs to the parent.
        """
        await self._runtime.aclose()

    async def runtime(self) -> Runtime:
        """The application behind this object, for what has no method here. Raises `SettingsError`."""
        return await self._runtime.get()

    @overload
    async def chat(
        self, model: str, messages: Messages, *, stream: Literal[False] = False, **how: Unpack[ChatOptions]
    ) -> ChatResult: ...
    @overload
    async def chat(
        self, model: str, messages: Messages, *, stream: Literal[True], **how: Unpack[ChatOptions]
    ) -> AsyncStream[ChatResult]: ...
    @overload
    async def chat(
        self, model: str, messages: Messages, *, stream: bool, **how: Unpack[ChatOptions]
    ) -> ChatResult | AsyncStream[ChatResult]: ...
    async def chat(
        self, model: str, messages: Messages, *, stream: bool = False, **how: Unpack[ChatOptions]
    ) -> ChatResult | AsyncStream[ChatResult]:
        """Answers a conversation: a string, or messages (`Message` or ``{"role": …, "content": …}``).

        With `stream`, returns once the model is loaded, and the answer arrives in chunks.
        """
        started_ns = time.perf_counter_ns()
        request = self._request("chat", model, how, ChatOptions)
        start = chat_starter(await spoken(messages, how.get("system")), how, request | answering(how, stream))
        generation = await start((await self.runtime()).inference)
        answer = AsyncStream(generation, chat_result, model, started_ns)
        return answer if stream else await answer.complete()

    @overload
    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        stream: Literal[False] = False,
        **how: Unpack[GenerateOptions],
    ) -> GenerateResult: ...
    @overload
    async def generate(
        self, model: str, prompt: str, *, stream: Literal[True], **how: Unpack[GenerateOptions]
    ) -> AsyncStream[GenerateResult]: ...
    @overload
    async def generate(
        self, model: str, prompt: str, *, stream: bool, **how: Unpack[GenerateOptions]
    ) -> GenerateResult | AsyncStream[GenerateResult]: ...
    async def generate(
        self, model: str, prompt: str, *, stream: bool = False, **how: Unpack[GenerateOptions]
    ) -> GenerateResult | AsyncStream[GenerateResult]:
        """Answers one prompt, using the model's chat template unless `raw`; otherwise works like `chat`."""
        started_ns = time.perf_counter_ns()
        request = self._request("generate", model, how, GenerateOptions)
        raw = checked("raw", how.get("raw", False), bool)
        call = GenerateCall(
            prompt=checked("prompt", prompt, str),
            images=await images_read(how.get("images", ())),
            system=how.get("system"),
            raw=raw,
            suffix=checked("suffix", how.get("suffix"), str, None) or "",
            template=checked("template", how.get("template"), str, None) or "",
            earlier_ids=checked_ids("context", how.get("context", ())),
            return_token_ids=not raw,
            **answering(how, stream),
            **request,
        )
        runtime = await self.runtime()
        answer = AsyncStream(await runtime.inference.generate(call), generate_result, model, started_ns)
        return answer if stream else await answer.complete()

    async def embed(
        self,
        model: str,
        inputs: str | Sequence[str],
        *,
        truncate: bool = True,
        dimensions: int | None = None,
        **how: Unpack[RequestOptions],
    ) -> Embeddings:
        """One unit-length vector per input, cut to `dimensions`. Without `truncate`, long input is `PromptTooLong`."""
        request = self._request("embed", model, how, RequestOptions)
        call = EmbedCall(
            inputs=texts_of(inputs),
            truncate=checked("truncate", truncate, bool),
            dimensions=checked_count("dimensions", dimensions, least=1),
            **request,
        )
        result = await (await self.runtime()).inference.embed(call)
        return Embeddings(
            model=model,
            vectors=tuple(tuple(row) for row in rows(result.vectors)),
            usage=Usage(prompt_tokens=result.prompt_tokens),
            load_ns=result.load_ns,
            total_ns=result.total_ns,
            ignored_options=result.ignored_options,
        )

    async def load(self, model: str, *, on_progress: LoadListener | None = None, **how: Unpack[RequestOptions]) -> int:
        """Loads a model before its first request, and converts it first if its engine needs that.

        `on_progress` gets a `LoadProgress`. Returns how long this took, in nanoseconds.
        """
        request = self._request("load", model, how, RequestOptions)
        on_progress = checked_callback("on_progress", on_progress)
        return await (await self.runtime()).inference.load(LoadCall(**request), on_progress)

    async def unload(self, model: str) -> bool:
        """Unloads a model once its requests have ended. Returns False if it was not loaded."""
        call = UnloadCall(model=checked("model", model, str))
        return await (await self.runtime()).inference.unload(call)

    async def loaded(self) -> builtins.list[LoadedModel]:
        """The models in memory."""
        return (await self.runtime()).scheduler.loaded()

    async def list(self, *, derived: bool = False) -> builtins.list[StoredModel]:
        """The models in the store, newest first; with `derived`, also those that were converted for an engine."""
        return await (await self.runtime()).catalog.list(derived=checked("derived", derived, bool))

    async def show(self, model: str) -> ModelDetails:
        """What the manifest and the weights say about a model."""
        return await model_details((await self.runtime()).catalog, _name("model", model))

    async def import_model(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        quantize: str = "",
        on_progress: OnProgress | None = None,
    ) -> StoredModel:
        """Imports a weights file or a model folder, named after it by default. The original files are not changed.

        The folder of a checkpoint in safetensors is converted, and quantized to the type `quantize` if one is given.
        """
        file = Path(checked_path("path", path))
        named, report = _name_or_none(name), checked_callback("on_progress", on_progress) or ignore_progress
        return await (await self.runtime()).catalog.import_file(file, named, report, checked("quantize", quantize, str))

    async def convert(
        self,
        model: str,
        to: str,
        *,
        name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        on_progress: OnLoadProgress | None = None,
    ) -> StoredModel:
        """Converts a model for another engine, with the converter `to` (such as ``onnx``), and stores it as `name`.

        By default the name is the model's, with the converter in its tag. `on_progress` gets the share done, 0 to 1.
        """
        source, named = _name("model", model), _name_or_none(name)
        chosen = checked_options(parameters, "parameters")
        report = checked_callback("on_progress", on_progress) or _ignore_share
        checked("to", to, str)
        runtime = await self.runtime()
        record = await runtime.catalog.get(source)
        return await runtime.deriver.convert(record, to, name=named, parameters=chosen, on_progress=report)

    async def copy(self, source: str, destination: str) -> None:
        """Gives a model a second name."""
        names = _name("source", source), _name("destination", destination)
        await (await self.runtime()).catalog.copy(*names)

    async def delete(self, model: str) -> None:
        """Removes a model and the files that no other model uses."""
        name = _name("model", model)
        await (await self.runtime()).delete(name)

    def _request(
        self, method: str, model: str, how: RequestOptions | AnswerOptions, known: type[RequestOptions]
    ) -> dict[str, Any]:
        refuse_unknown(f"{self._name}.{method}()", how, known.__annotations__, ELSEWHERE.get(method, {}))
        return {
            "model": checked("model", model, str),
            "options": self._options | checked_options(how.get("options")),
            "keep_alive_s": keep_alive_s(how.get("keep_alive")),
            "engine": checked("engine", how.get("engine"), str, None),
        }


def _name(argument: str, name: str) -> ModelName:
    return parse_name(checked(argument, name, str))


def _name_or_none(name: str | None) -> ModelName | None:
    return None if name is None else _name("name", name)


def _ignore_share(share: float) -> None:
    pass
