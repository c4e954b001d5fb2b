"""The use cases of inference: generate, chat, embed, load, unload.

`InferenceService` finds the model, leases it from the scheduler, builds the prompt and hands out a `Generation`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any, Protocol

import msgspec
from msgspec import UnsetType

from corral.core.errors import Unsupported, UnsupportedField
from corral.core.generation.answers import Generation
from corral.core.generation.chat import PlainTemplate, PromptedChat, require_room_for
from corral.core.generation.embedding import embed_texts
from corral.core.generation.rendering import RenderedApart, RenderingThreads
from corral.core.lru import LruDict
from corral.core.models.digests import Digest
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.models.names import ModelName, parse_name
from corral.core.ports.chat import ChatTemplate, ChatTemplateFactory
from corral.core.ports.running import Task
from corral.core.requests.caller import Caller
from corral.core.requests.calls import (
    ChatCall,
    EmbedCall,
    EmbedResult,
    GenerateCall,
    LoadCall,
    LoadingCall,
    UnloadCall,
)
from corral.core.requests.messages import Message, Tool
from corral.core.requests.options import ResolvedOptions, resolve_options
from corral.core.requests.outputs import Embedded, Vectors
from corral.core.requests.prompts import Prompt, TextPart, prompt_text
from corral.core.requests.requests import ChatRequest, CompletionRequest, ContextPolicy
from corral.core.requests.vectors import check_finite, normalise
from corral.core.scheduling.leases import Lease
from corral.core.scheduling.load_progress import LoadListener

__all__ = ("InferenceService",)

_log = logging.getLogger(__name__)

_REMEMBERED_TEMPLATES = 64
_ANSWERING: frozenset[Task] = frozenset({"completion", "chat"})
_EMBEDDING: frozenset[Task] = frozenset({"embedding"})


class Catalog(Protocol):
    """What inference asks of the `ModelCatalog`."""

    async def get(self, name: ModelName) -> StoredModel: ...
    async def metadata(self, record: StoredModel) -> ModelMetadata | None: ...
    async def capabilities(self, record: StoredModel) -> tuple[str, ...]: ...


class Scheduler(Protocol):
    """What inference asks of the `ModelScheduler`."""

    def lease(
        self,
        record: StoredModel,
        *,
        load_options: Mapping[str, Any] = ...,
        engine: str | None = ...,
        tasks: Collection[Task] = ...,
        keep_alive_s: float | UnsetType | None = ...,
        caller: Caller = ...,
        on_progress: LoadListener | None = ...,
    ) -> AbstractAsyncContextManager[Lease]: ...

    async def unload(self, record: StoredModel) -> bool: ...


class InferenceService:
    """Every use case loads the model if need be, and raises errors of `corral.core.errors` only."""

    def __init__(self, *, catalog: Catalog, scheduler: Scheduler, templates: Sequence[ChatTemplateFactory]) -> None:
        self._catalog = catalog
        self._scheduler = scheduler
        self._factories = tuple(templates)
        self._templates: LruDict[Digest, RenderedApart] = LruDict(_REMEMBERED_TEMPLATES)
        self._rendering = RenderingThreads()
        # Arithmetic on thousands of vectors takes one of the threads that all share, never several.
        self._one_at_a_time = asyncio.Lock()

    async def generate(self, call: GenerateCall) -> Generation:
        """Outputs: `Started`, `Delta`s, `Finished`. What is wrong with call or model is raised here, at once.

        To a model that owns its template the prompt is a chat, unless it is raw.
        """
        record = await self._find(call.model, "generate")
        _refuse_unserved(record, think=call.think)
        options = _options(record, call.options)
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(self._lease(record, call, options))
            if "chat" in lease.model.info.tasks and not call.raw:
                chat_request = _chat_request(call, options, _generate_messages(record, call))
                return Generation(record, lease, lease.model.run(chat_request), stack.pop_all(), options.unknown)
            _require_task(lease, "completion", call.model, "generate")
            _require_constraints(lease, call)
            prompt: Prompt = (TextPart(text=call.prompt, parse_special=True),)
            context = _context(options, call.shift)
            if call.raw:
                require_room_for(lease.model.info, prompt, context)
            else:
                chat = PromptedChat(lease.model, await self._template(record))
                prompt = await chat.prompt(_generate_messages(record, call), context)
            request = CompletionRequest(
                caller=call.caller,
                prompt=prompt,
                sampling=options.sampling,
                context=context,
                constraint=call.constraint,
                logprobs=call.logprobs,
                return_token_ids=call.return_token_ids,
            )
            return Generation(record, lease, lease.model.run(request), stack.pop_all(), options.unknown)

    async def chat(self, call: ChatCall) -> Generation:
        """Outputs: `Started`, `Delta`s, `Finished`. What is wrong with call or model is raised here, at once."""
        record = await self._find(call.model, "chat")
        _refuse_unserved(record, tools=call.tools, think=call.think)
        options = _options(record, call.options)
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(self._lease(record, call, options))
            request = _chat_request(call, options, _chat_messages(record, call.messages), call.tools)
            if "chat" in lease.model.info.tasks:
                outputs = lease.model.run(request)
            else:
                _require_task(lease, "completion", call.model, "chat")
                _require_constraints(lease, call)
                outputs = await PromptedChat(lease.model, await self._template(record)).open(request)
            return Generation(record, lease, outputs, stack.pop_all(), options.unknown)

    async def embed(self, call: EmbedCall) -> EmbedResult:
        """Without inputs it only loads the model. Raises `PromptTooLong` where an input may not be cut."""
        started_ns = time.perf_counter_ns()
        record = await self._find(call.model)
        options = _options(record, call.options)
        async with self._lease(record, call, options, _EMBEDDING) as lease:
            _require_task(lease, "embedding", call.model, "embeddings")
            embedded = Embedded(vectors=Vectors(dimensions=0, float32=b""), prompt_tokens=0)
            if call.inputs:
                embedded = await embed_texts(lease.model, call, options.context.num_ctx)
            load_ns, ignored = lease.load_ns, lease.ignored_options
            if ignored:
                _log.warning(
                    "%s: the %s engine ignores these options: %s", record.name.short, lease.engine, ", ".join(ignored)
                )
        vectors = embedded.vectors
        async with self._one_at_a_time:
            if call.normalise:
                vectors = await asyncio.to_thread(normalise, vectors, call.dimensions)
            else:
                await asyncio.to_thread(check_finite, vectors)
        return EmbedResult(
            vectors=vectors,
            prompt_tokens=embedded.prompt_tokens,
            load_ns=load_ns,
            total_ns=time.perf_counter_ns() - started_ns,
            ignored_options=(*options.unknown, *ignored),
        )

    async def load(self, call: LoadCall, on_progress: LoadListener | None = None) -> int:
        """Load a model, or extend its stay. Returns the nanoseconds it took, 0 if it was loaded already.

        A model that only makes embeddings is not loaded for a task that it does not have.
        """
        record = await self._find(call.model, call.task)
        options = _options(record, call.options)
        async with self._lease(record, call, options, (), on_progress) as lease:
            return lease.load_ns

    async def unload(self, call: UnloadCall) -> bool:
        """Free a model once its requests have ended. False if it was not loaded."""
        return await self._scheduler.unload(await self._find(call.model))

    async def render(self, call: ChatCall) -> str:
        """The prompt that `chat` would send, as text. Loads nothing."""
        record = await self._find(call.model, "chat")
        template = await self._template(record)
        return prompt_text(await template.render(_chat_messages(record, call.messages)))

    def close(self) -> None:
        """Lets its threads go. Once no request is under way; waits for nothing."""
        self._rendering.close()

    async def _find(self, model: str, task: str | None = None) -> StoredModel:
        record = await self._catalog.get(parse_name(model))
        # Before loading, so that nobody's model is evicted for a request that cannot be served.
        if task is not None:
            capabilities = await self._catalog.capabilities(record)
            if "embedding" in capabilities and "completion" not in capabilities:
                raise Unsupported(f'"{model}" does not support {task}')
        return record

    def _lease(
        self,
        record: StoredModel,
        call: LoadingCall,
        options: ResolvedOptions,
        tasks: Collection[Task] = _ANSWERING,
        on_progress: LoadListener | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        return self._scheduler.lease(
            record,
            load_options=options.load,
            engine=call.engine or options.engine,
            tasks=tasks,
            keep_alive_s=call.keep_alive_s,
            caller=call.caller,
            on_progress=on_progress,
        )

    async def _template(self, record: StoredModel) -> RenderedApart:
        template = self._templates.get(record.digest)
        if template is None:
            metadata = await self._catalog.metadata(record)
            compiled = await self._rendering.apart(partial(self._compile, record, metadata))
            template = self._templates.get(record.digest) or compiled  # another may have come first
            self._templates.put(record.digest, template)
        return template

    def _compile(self, record: StoredModel, metadata: ModelMetadata | None) -> ChatTemplate:
        for factory in self._factories:
            template = factory(record, metadata)
            if template is not None:
                return template
        return PlainTemplate()


def _require_task(lease: Lease, task: Task, name: str, wanted: str) -> None:
    if task not in lease.model.info.tasks:
        remedy = f"it runs on {lease.engine}, which cannot do this; corral show lists the engines that can run it"
        raise Unsupported(f'"{name}" does not support {wanted}', remedy)


def _require_constraints(lease: Lease, call: GenerateCall | ChatCall) -> None:
    if call.constraint is not None and "constraints" not in lease.model.info.features:
        raise Unsupported(f'format: "{call.model}" runs on {lease.engine}, which does not support formats')


def _refuse_unserved(record: StoredModel, **fields: object) -> None:
    """What only an upstream serves so far. Refused before loading, so that nobody's model is evicted for it."""
    for name, value in fields.items():
        if value and not record.remote:
            raise UnsupportedField(f"{name} is not supported by this version of Corral", "omit it")


def _options(record: StoredModel, options: Mapping[str, Any]) -> ResolvedOptions:
    """The model's own and then the request's. One that nobody knows is taken, as Ollama does, but not silently."""
    resolved = resolve_options(record.parameters, options)
    if resolved.unknown:
        names = ", ".join(repr(name[:40]) for name in resolved.unknown[:8])
        _log.warning("%s: ignored options: %s", record.name.short, names)
    return resolved


def _context(options: ResolvedOptions, shift: bool | None) -> ContextPolicy:
    return options.context if shift is None else msgspec.structs.replace(options.context, shift=shift)


def _chat_request(
    call: GenerateCall | ChatCall, options: ResolvedOptions, messages: tuple[Message, ...], tools: tuple[Tool, ...] = ()
) -> ChatRequest:
    return ChatRequest(
        caller=call.caller,
        messages=messages,
        tools=tools,
        sampling=options.sampling,
        context=_context(options, call.shift),
        think=call.think,
        constraint=call.constraint,
        logprobs=call.logprobs,
    )


def _generate_messages(record: StoredModel, call: GenerateCall) -> tuple[Message, ...]:
    system = call.system or record.system
    opening = (Message(role="system", content=system),) if system else ()
    return (*opening, *record.messages, Message(role="user", content=call.prompt))


def _chat_messages(record: StoredModel, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """As Ollama: the model's own messages first; its SYSTEM before all, unless the caller begins with one."""
    whole = (*record.messages, *messages)
    if record.system and not (messages and messages[0].role == "system"):
        return (Message(role="system", content=record.system), *whole)
    return whole
