"""The two places where ``corral run`` can run a model: this process, or a server."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from corral.api.cli.client import ServerClient
from corral.api.cli.model_facts import ModelFacts, facts_of_details, facts_of_reply
from corral.api.cli.model_names import HOW_TO_GET_MODELS
from corral.api.library import Corral, Stream
from corral.api.library.results import Answer
from corral.core.errors import ModelNotFound, NotFound, SourceError
from corral.core.scheduling.load_progress import LoadListener, LoadProgress

__all__ = ("Backend", "LocalBackend", "Reply", "RunOptions", "ServerBackend", "Timings")


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """How long an answer took. Counts are in tokens. `truncated`: the context was full, and something was left out."""

    total_ns: int = 0
    load_ns: int = 0
    prompt_tokens: int = 0
    prefill_ns: int = 0
    generated_tokens: int = 0
    decode_ns: int = 0
    truncated: bool = False


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a request. `keep_alive` is in seconds: -1 means no limit, and None leaves the model's as it is.

    `raw` completes a prompt without the model's chat template. `format` is ``"json"`` or a JSON Schema.
    """

    model: str
    options: Mapping[str, Any] = {}
    keep_alive: float | None = None
    raw: bool = False
    format: Any = None


Reply = Generator[str, None, Timings]
"""Yields text as it is generated, and returns the timings. Closing it early cancels the request."""

Messages = Sequence[Mapping[str, str]]


class Backend(Protocol):
    """Where models run. Methods raise `CorralError`s, and `ModelNotFound` if the model does not exist."""

    def facts(self, model: str) -> ModelFacts: ...

    def models(self) -> list[str]: ...

    def load(self, run_options: RunOptions, on_progress: LoadListener) -> None: ...

    def chat(self, run_options: RunOptions, messages: Messages) -> Reply: ...

    def generate(self, run_options: RunOptions, prompt: str) -> Reply: ...

    def embed(self, run_options: RunOptions, text: str) -> Sequence[float]: ...


class LocalBackend:
    """Runs models in this process."""

    def __init__(self, corral: Corral) -> None:
        self._corral = corral

    def facts(self, model: str) -> ModelFacts:
        try:
            return facts_of_details(self._corral.show(model))
        except ModelNotFound as fault:
            raise ModelNotFound(fault.message, HOW_TO_GET_MODELS) from fault

    def models(self) -> list[str]:
        return [record.name.short for record in self._corral.list()]

    def load(self, run_options: RunOptions, on_progress: LoadListener) -> None:
        self._corral.load(run_options.model, on_progress=on_progress, **_how(run_options))

    def chat(self, run_options: RunOptions, messages: Messages) -> Reply:
        return _local_reply(
            lambda: self._corral.chat(run_options.model, messages, stream=True, **_answer_how(run_options))
        )

    def generate(self, run_options: RunOptions, prompt: str) -> Reply:
        return _local_reply(
            lambda: self._corral.generate(
                run_options.model, prompt, raw=run_options.raw, stream=True, **_answer_how(run_options)
            )
        )

    def embed(self, run_options: RunOptions, text: str) -> Sequence[float]:
        return self._corral.embed(run_options.model, text, **_how(run_options)).vectors[0]


class ServerBackend:
    """Runs models on a Corral server."""

    def __init__(self, server: ServerClient) -> None:
        self._server = server

    def facts(self, model: str) -> ModelFacts:
        try:
            return facts_of_reply(model, self._server.call("POST", "/api/show", {"model": model}))
        except NotFound as fault:
            raise ModelNotFound(
                f"the server at {self._server.address.url} has no model '{model}'",
                "pull or import it on that server, or run it in this process with --local",
            ) from fault

    def models(self) -> list[str]:
        return [model["name"] for model in self._server.call("GET", "/api/tags")["models"]]

    def load(self, run_options: RunOptions, on_progress: LoadListener) -> None:
        self._server.call("POST", "/api/generate", _body(run_options, stream=False))
        on_progress(LoadProgress(stage="loading", share=1.0))

    def chat(self, run_options: RunOptions, messages: Messages) -> Reply:
        return self._reply("/api/chat", _body(run_options, messages=list(messages), format=run_options.format))

    def generate(self, run_options: RunOptions, prompt: str) -> Reply:
        return self._reply(
            "/api/generate", _body(run_options, prompt=prompt, raw=run_options.raw, format=run_options.format)
        )

    def embed(self, run_options: RunOptions, text: str) -> Sequence[float]:
        vectors: list[list[float]] = self._server.call("POST", "/api/embed", _body(run_options, input=text))[
            "embeddings"
        ]
        return vectors[0]

    def _reply(self, path: str, body: dict[str, Any]) -> Reply:
        last: dict[str, Any] = {}
        lines = self._server.stream(path, body)
        try:
            for last in lines:
                text = last["message"]["content"] if "message" in last else last.get("response", "")
                if text:
                    yield text
        finally:
            lines.close()
        if not last.get("done"):
            raise SourceError(
                f"the server at {self._server.address.url} closed the connection before the answer was complete"
            )
        return Timings(
            total_ns=last.get("total_duration", 0),
            load_ns=last.get("load_duration", 0),
            prompt_tokens=last.get("prompt_eval_count", 0),
            prefill_ns=last.get("prompt_eval_duration", 0),
            generated_tokens=last.get("eval_count", 0),
            decode_ns=last.get("eval_duration", 0),
            truncated=last.get("truncated", False),
        )


def _local_reply(ask: Callable[[], Stream[Any]]) -> Reply:
    with ask() as stream:  # not called before the text is wanted, since this may load the model
        for chunk in stream:
            if chunk.text:
                yield chunk.text
    result: Answer = stream.result
    return Timings(
        total_ns=result.total_ns,
        load_ns=result.load_ns,
        prompt_tokens=result.usage.prompt_tokens,
        prefill_ns=result.usage.prefill_ns,
        generated_tokens=result.usage.generated_tokens,
        decode_ns=result.usage.decode_ns,
        truncated=result.truncated,
    )


def _how(run_options: RunOptions) -> dict[str, Any]:
    return {"options": run_options.options} | (
        {} if run_options.keep_alive is None else {"keep_alive": run_options.keep_alive}
    )


def _answer_how(run_options: RunOptions) -> dict[str, Any]:
    return _how(run_options) | {"format": run_options.format}


def _body(run_options: RunOptions, **fields: Any) -> dict[str, Any]:
    return {"model": run_options.model} | _how(run_options) | fields
