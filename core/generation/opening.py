"""How every use case of inference begins: its model is looked up once, as its caller may, and leased."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import UnsetType

from corral.core.access.rules import require_model, require_scope
from corral.core.generation.assembling import resolved_options
from corral.core.generation.refusals import refuse_textless_model, settled_thinking
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName, parse_name
from corral.core.models.view import ModelView
from corral.core.ports.running import Task
from corral.core.requests.caller import Caller
from corral.core.requests.calls import Call, ChatCall, GenerateCall, LoadCall, LoadingCall
from corral.core.requests.options import ResolvedOptions
from corral.core.scheduling.leases import Lease
from corral.core.scheduling.load_progress import LoadListener

__all__ = ("ANSWERING", "EMBEDDING", "Catalog", "ModelOpener", "Scheduler")

ANSWERING: frozenset[Task] = frozenset({"completion", "chat"})
EMBEDDING: frozenset[Task] = frozenset({"embedding"})
_ENCODING: frozenset[Task] = EMBEDDING | {"rerank"}

ThinkingCallT = TypeVar("ThinkingCallT", bound=GenerateCall | ChatCall | LoadCall)


class Catalog(Protocol):
    """What inference asks of the `ModelCatalog`."""

    async def get(self, name: ModelName) -> StoredModel: ...
    async def list(self) -> list[StoredModel]: ...
    async def view(self, name: ModelName) -> ModelView: ...


class Scheduler(Protocol):
    """What inference asks of the `ModelScheduler`."""

    def lease(
        self,
        view: ModelView,
        *,
        load_options: Mapping[str, Any] = ...,
        engine: str | None = ...,
        tasks: Collection[Task] = ...,
        keep_alive_s: float | UnsetType | None = ...,
        caller: Caller = ...,
        on_progress: LoadListener | None = ...,
    ) -> AbstractAsyncContextManager[Lease]: ...

    def lease_tokenizer(
        self,
        view: ModelView,
        *,
        load_options: Mapping[str, Any] = ...,
        engine: str | None = ...,
        tasks: Collection[Task] = ...,
        keep_alive_s: float | UnsetType | None = ...,
        caller: Caller = ...,
    ) -> AbstractAsyncContextManager[Lease]: ...

    async def unload(self, record: StoredModel) -> bool: ...


class ModelOpener:
    """Looks up the model of a call, checks that its caller may use it, and leases it from the scheduler."""

    def __init__(self, catalog: Catalog, scheduler: Scheduler) -> None:
        self._catalog = catalog
        self._scheduler = scheduler

    def permitted(self, call: Call) -> ModelName:
        """The name of the call's model. Raises `Forbidden`, and `ModelNotFound` for one that its caller may not use."""
        name, principal = parse_name(call.model), call.caller.principal
        require_scope(principal, "infer")
        require_model(principal, name)
        return name

    async def view(self, call: Call) -> ModelView:
        """The call's model. Raises what `permitted` raises."""
        return await self._catalog.view(self.permitted(call))

    async def begun(
        self, call: ThinkingCallT, task: Literal["generate", "chat"] | None
    ) -> tuple[ModelView, ResolvedOptions, ThinkingCallT]:
        """The model and the options of a call, and the call with its `think` settled; checked in Ollama's order."""
        view = await self.view(call)
        think = settled_thinking(view, call.model, call.think)
        if task is not None:
            refuse_textless_model(view.capabilities, call.model, task)
        if think is not call.think:
            call = msgspec.structs.replace(call, think=think)
        return view, resolved_options(view, call.options), call

    def lease(
        self,
        view: ModelView,
        call: LoadingCall,
        options: ResolvedOptions,
        tasks: Collection[Task],
        on_progress: LoadListener | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """The model in memory, loaded if need be, for as long as the context is open."""
        return self._scheduler.lease(
            view,
            load_options=options.load,
            engine=call.engine or options.engine,
            tasks=tasks,
            keep_alive_s=call.keep_alive_s,
            caller=call.caller,
            on_progress=on_progress,
        )

    def lease_tokenizer(
        self, view: ModelView, call: LoadingCall, options: ResolvedOptions
    ) -> AbstractAsyncContextManager[Lease]:
        """What tokenizes as the loaded model does, if need be without its weights."""
        is_encoder = bool(view.capabilities) and "completion" not in view.capabilities
        return self._scheduler.lease_tokenizer(
            view,
            load_options=options.load,
            engine=call.engine or options.engine,
            tasks=_ENCODING if is_encoder else ANSWERING,
            keep_alive_s=call.keep_alive_s,
            caller=call.caller,
        )
