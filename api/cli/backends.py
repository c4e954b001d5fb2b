"""The two places where ``corral run`` can run a model: this process, or a server."""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from corral.api.cli.client import ServerClient
from corral.api.cli.model_facts import ModelFacts, facts_of_details, facts_of_reply
from corral.api.cli.model_names import HOW_TO_GET_MODELS
from corral.api.library import Corral, Stream
from corral.api.library.results import Answer, Chunk
from corral.core.errors import ModelNotFound, NotFound, SourceError
from corral.core.scheduling.load_progress import LoadListener, LoadProgress

__all__ = ("Backend", "ChatMessages", "LocalBackend", "Reply", "RunOptions", "ServerBackend", "Timings")


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

    `think` None means yes for models that can. `format` is ``"json"``, a JSON Schema or a grammar. Without `truncate`,
    what does not fit into the context is an error. For `generate` only: `raw` (without the model's chat template),
    `system`, `suffix` and `template`; for `embed` only: `dimensions`, where None means all.
    """

    model: str
    options: Mapping[str, Any] = {}
    keep_alive: float | None = None
    think: bool | str | None = None
    format: Any = None
    truncate: bool = True
    raw: bool = False
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    dimensions: int | None = None


Reply = Generator[Chunk, None, Timings]
"""Yields thinking and text as they are generated, and returns the timings. Closing it early cancels the request."""

ChatMessages = Sequence[Mapping[str, Any]]
"""Messages as `Corral.chat` takes them; `images` are the bytes of files."""


class Backend(Protocol):
    """Where models run. Methods raise `CorralError`s, and `ModelNotFound` if the model does not exist."""

    def facts(self, model: str) -> ModelFacts: ...

    def models(self) -> list[str]: ...

    def load(self, run_options: RunOptions, on_progress: LoadListener) -> None: ...

    def chat(self, run_options: RunOptions, messages: ChatMessages) -> Reply: ...

    def generate(self, run_options: RunOptions, prompt: str, images: Sequence[bytes] = ()) -> Reply: ...

    def embed(self, run_options: RunOptions, text: str) -> Sequence[float]: ...


class LocalBackend:
    """Runs models in this process."""

    def __init__(self, corral: Corral) -> None:
        self._corral = corral

    def facts(self, model: str) -> ModelFacts:
        try:
            details = self._corral.show(model)
        except ModelNotFound as fault:
            raise ModelNotFound(fault.message, HOW_TO_GET_MODELS) from fault
        return facts_of_details(self._corral, details)

    def models(self) -> list[str]:
        return [record.name.short for record in self._corral.list()]

    def load(self, run_options: RunOptions, on_progress: LoadListener) -> None:
        self._corral.load(run_options.model, on_progress=on_progress, **_how(run_options))

    def chat(self, run_options: RunOptions, messages: ChatMessages) -> Reply:
        return _local_reply(
            lambda: self._corral.chat(run_options.model, messages, stream=True, **_answer_how(run_options))
        )

    def generate(self, run_options: RunOptions, prompt: str, images: Sequence[bytes] = ()) -> Reply:
        how = _answer_how(run_options) | _generate_how(run_options)
        return _local_reply(lambda: self._corral.generate(run_options.model, prompt, images=images, stream=True, **how))

    def embed(self, run_options: RunOptions, text: str) -> Sequence[float]:
        how = _how(run_options) | _embed_how(run_options)
        return self._corral.embed(run_options.model, text, **how).vectors[0]


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

    def chat(self, run_options: RunOptions, messages: ChatMessages) -> Reply:
        encoded = [_encoded(message) for message in messages]
        return self._reply("/api/chat", _body(run_options, messages=encoded) | _answer_fields(run_options))

    def generate(self, run_options: RunOptions, prompt: str, images: Sequence[bytes] = ()) -> Reply:
        fields = _answer_fields(run_options) | _generate_how(run_options)
        return self._reply("/api/generate", _body(run_options, prompt=prompt, images=_base64(images)) | fields)

    def embed(self, run_options: RunOptions, text: str) -> Sequence[float]:
        reply = self._server.call("POST", "/api/embed", _body(run_options, input=text) | _embed_how(run_options))
        vectors: list[list[float]] = reply["embeddings"]
        return vectors[0]

    def _reply(self, path: str, body: dict[str, Any]) -> Reply:
        last: dict[str, Any] = {}
        lines = self._server.stream(path, body)
        try:
            for last in lines:
                message = last.get("message", last)
                text = message.get("content" if "message" in last else "response", "")
                thinking = message.get("thinking", "")
                if text or thinking:
                    yield Chunk(text=text, thinking=thinking)
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
            if chunk.text or chunk.thinking:
                yield chunk
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


def _answer_fields(run_options: RunOptions) -> dict[str, Any]:
    return {"format": run_options.format, "think": run_options.think, "truncate": run_options.truncate}


def _answer_how(run_options: RunOptions) -> dict[str, Any]:
    return _how(run_options) | _answer_fields(run_options)


def _generate_how(run_options: RunOptions) -> dict[str, Any]:
    names = ("raw", "system", "suffix", "template")
    return {name: value for name in names if (value := getattr(run_options, name))}


def _embed_how(run_options: RunOptions) -> dict[str, Any]:
    return {"truncate": run_options.truncate} | (
        {} if run_options.dimensions is None else {"dimensions": run_options.dimensions}
    )


def _body(run_options: RunOptions, **fields: Any) -> dict[str, Any]:
    return {"model": run_options.model} | _how(run_options) | fields


def _encoded(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message as JSON has it."""
    images = {"images": _base64(message["images"])} if "images" in message else {}
    return {**message, **images}


def _base64(images: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(image).decode() for image in images]
