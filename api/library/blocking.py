"""`Corral`: `AsyncCorral` for blocking code."""

from __future__ import annotations

import builtins
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeVar, Unpack, overload

from corral.api.library.asynchronous import AsyncCorral
from corral.api.library.blocking_tokens import BlockingTokens
from corral.api.library.blocking_weights import BlockingWeights
from corral.api.library.creation import CreateOptions
from corral.api.library.messages import Messages
from corral.api.library.method_names import names_its_methods
from corral.api.library.options import ChatOptions, CorralOptions, GenerateOptions, RequestOptions
from corral.api.library.portal import Portal
from corral.api.library.reranking import Reranked
from corral.api.library.results import ChatResult, Embeddings, GenerateResult, ModelDetails
from corral.api.library.streams import AsyncStream, Stream
from corral.core.catalog.garbage import GarbageReport
from corral.core.catalog.verifying import VerifyReport
from corral.core.models.model import StoredModel
from corral.core.ports.prefixes import KeptPrefixes
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.sources import OnProgress
from corral.core.runtime import Runtime
from corral.core.scheduling.leases import LoadedModel
from corral.core.scheduling.load_progress import LoadListener

__all__ = ("Corral",)

T = TypeVar("T")


class _Behind(AsyncCorral):
    """The `AsyncCorral` behind a `Corral`; its errors name the class that the caller used."""

    _name = "Corral"


@names_its_methods
class Corral(BlockingTokens, BlockingWeights):
    """`AsyncCorral` for blocking code: methods run on an event loop in a separate thread, and wait for the result.

    Any number of threads can share one, also where an event loop is already running, as in Jupyter. Ctrl-C cancels only
    the call that it interrupts. A `Corral` that is not closed is closed when it is garbage-collected or Python exits.

    It belongs to the process that created it: in a forked child, every method except `close` raises `RuntimeError`.
    """

    def __init__(self, **setup: Unpack[CorralOptions]) -> None:
        self._async = _Behind(**setup)
        self._portal = Portal("corral")
        self._closing = weakref.finalize(self, _forgotten, self._portal, self._async)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Corral cannot be pickled or copied: create one in each process")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unloads every model and ends the thread. May be called twice; afterwards other calls raise `RuntimeError`.

        Does nothing in a forked child, since everything there is to close belongs to the parent.
        """
        if self._closing.detach() is not None:
            _close(self._portal, self._async)

    def runtime(self) -> Runtime:
        """The application behind this object; its coroutines must be awaited on this object's loop (see `call`)."""
        return self._portal.call(self._async.runtime)

    def call(self, function: Callable[[AsyncCorral], Awaitable[T]]) -> T:
        """Awaits ``function(async_corral)`` on this object's loop, for what has no method here."""
        return self._portal.call(lambda: function(self._async))

    @overload
    def chat(
        self, model: str, messages: Messages, *, stream: Literal[False] = False, **how: Unpack[ChatOptions]
    ) -> ChatResult: ...
    @overload
    def chat(
        self, model: str, messages: Messages, *, stream: Literal[True], **how: Unpack[ChatOptions]
    ) -> Stream[ChatResult]: ...
    @overload
    def chat(
        self, model: str, messages: Messages, *, stream: bool, **how: Unpack[ChatOptions]
    ) -> ChatResult | Stream[ChatResult]: ...
    def chat(
        self, model: str, messages: Messages, *, stream: bool = False, **how: Unpack[ChatOptions]
    ) -> ChatResult | Stream[ChatResult]:
        """See `AsyncCorral.chat`."""
        in_parts = stream or bool(how.get("run_tools"))  # functions run in this thread
        answer = self.call(lambda corral: corral.chat(model, messages, stream=in_parts, **how))
        if not isinstance(answer, AsyncStream):
            return answer
        parts = Stream(answer, self._portal)
        return parts if stream else parts.complete()

    @overload
    def generate(
        self,
        model: str,
        prompt: str,
        *,
        stream: Literal[False] = False,
        **how: Unpack[GenerateOptions],
    ) -> GenerateResult: ...
    @overload
    def generate(
        self, model: str, prompt: str, *, stream: Literal[True], **how: Unpack[GenerateOptions]
    ) -> Stream[GenerateResult]: ...
    @overload
    def generate(
        self, model: str, prompt: str, *, stream: bool, **how: Unpack[GenerateOptions]
    ) -> GenerateResult | Stream[GenerateResult]: ...
    def generate(
        self, model: str, prompt: str, *, stream: bool = False, **how: Unpack[GenerateOptions]
    ) -> GenerateResult | Stream[GenerateResult]:
        """See `AsyncCorral.generate`."""
        answer = self.call(lambda corral: corral.generate(model, prompt, stream=stream, **how))
        return Stream(answer, self._portal) if isinstance(answer, AsyncStream) else answer

    def embed(
        self,
        model: str,
        inputs: str | Sequence[str],
        *,
        truncate: bool = True,
        dimensions: int | None = None,
        **how: Unpack[RequestOptions],
    ) -> Embeddings:
        """See `AsyncCorral.embed`."""
        return self.call(lambda corral: corral.embed(model, inputs, truncate=truncate, dimensions=dimensions, **how))

    def rerank(
        self,
        model: str,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        truncate: bool = True,
        **how: Unpack[RequestOptions],
    ) -> Reranked:
        """See `AsyncCorral.rerank`."""
        return self.call(lambda corral: corral.rerank(model, query, documents, top_n=top_n, truncate=truncate, **how))

    def load(self, model: str, *, on_progress: LoadListener | None = None, **how: Unpack[RequestOptions]) -> int:
        """See `AsyncCorral.load`. `on_progress` is called on other threads."""
        return self.call(lambda corral: corral.load(model, on_progress=on_progress, **how))

    def unload(self, model: str) -> bool:
        """See `AsyncCorral.unload`."""
        return self.call(lambda corral: corral.unload(model))

    def loaded(self) -> builtins.list[LoadedModel]:
        """See `AsyncCorral.loaded`."""
        return self.call(lambda corral: corral.loaded())

    def list(self, *, derived: bool = False) -> builtins.list[StoredModel]:
        """See `AsyncCorral.list`."""
        return self.call(lambda corral: corral.list(derived=derived))

    def show(self, model: str) -> ModelDetails:
        """See `AsyncCorral.show`."""
        return self.call(lambda corral: corral.show(model))

    def pull(
        self, reference: str, *, name: str | None = None, insecure: bool = False, on_progress: OnProgress | None = None
    ) -> StoredModel:
        """See `AsyncCorral.pull`. `on_progress` is called on other threads."""
        return self.call(lambda corral: corral.pull(reference, name=name, insecure=insecure, on_progress=on_progress))

    def push(
        self,
        model: str,
        reference: str | None = None,
        *,
        manifest_format: str | None = None,
        insecure: bool = False,
        on_progress: OnProgress | None = None,
    ) -> str:
        """See `AsyncCorral.push`. `on_progress` is called on other threads."""
        return self.call(
            lambda corral: corral.push(
                model, reference, manifest_format=manifest_format, insecure=insecure, on_progress=on_progress
            )
        )

    def import_model(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        quantize: str = "",
        on_progress: OnProgress | None = None,
    ) -> StoredModel:
        """See `AsyncCorral.import_model`. `on_progress` is called on other threads."""
        return self.call(
            lambda corral: corral.import_model(path, name=name, quantize=quantize, on_progress=on_progress)
        )

    def convert(
        self,
        model: str,
        to: str,
        *,
        name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        on_progress: OnLoadProgress | None = None,
    ) -> StoredModel:
        """See `AsyncCorral.convert`. `on_progress` is called on other threads."""
        return self.call(
            lambda corral: corral.convert(model, to, name=name, parameters=parameters, on_progress=on_progress)
        )

    def copy(self, source: str, destination: str) -> None:
        """See `AsyncCorral.copy`."""
        self.call(lambda corral: corral.copy(source, destination))

    def delete(self, model: str) -> None:
        """See `AsyncCorral.delete`."""
        self.call(lambda corral: corral.delete(model))

    def create(
        self, model: str, from_: str = "", *, on_progress: OnProgress | None = None, **how: Unpack[CreateOptions]
    ) -> StoredModel:
        """See `AsyncCorral.create`."""
        return self.call(lambda corral: corral.create(model, from_, on_progress=on_progress, **how))

    def create_from_modelfile(
        self, model: str, modelfile: str | os.PathLike[str], *, on_progress: OnProgress | None = None
    ) -> StoredModel:
        """See `AsyncCorral.create_from_modelfile`."""
        return self.call(lambda corral: corral.create_from_modelfile(model, modelfile, on_progress=on_progress))

    def kept_prefixes(self) -> Sequence[KeptPrefixes]:
        """See `AsyncCorral.kept_prefixes`."""
        return self.call(lambda corral: corral.kept_prefixes())

    def clear_prefixes(self, model: str | None = None) -> tuple[int, int]:
        """See `AsyncCorral.clear_prefixes`."""
        return self.call(lambda corral: corral.clear_prefixes(model))

    def gc(self, *, dry_run: bool = False, partials: bool = False) -> GarbageReport:
        """See `AsyncCorral.gc`."""
        return self.call(lambda corral: corral.gc(dry_run=dry_run, partials=partials))

    def verify(self, *models: str, on_progress: OnProgress | None = None) -> VerifyReport:
        """See `AsyncCorral.verify`."""
        return self.call(lambda corral: corral.verify(*models, on_progress=on_progress))


def _forgotten(portal: Portal, corral: AsyncCorral) -> None:
    """The last reference may be dropped on any thread, even the portal's own, which cannot wait for itself."""
    if portal.is_current:
        threading.Thread(target=_close, args=(portal, corral), name="close a forgotten Corral").start()
    else:
        _close(portal, corral)


def _close(portal: Portal, corral: AsyncCorral) -> None:
    if portal.forked:
        return
    try:
        portal.call(corral.aclose)
    finally:
        portal.close()
