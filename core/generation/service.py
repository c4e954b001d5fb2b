"""The use cases of inference: generate, chat, embed, rerank, load, unload.

All of them begin alike: `InferenceService` looks the model up once, resolves the options, and leases the model from the
scheduler. Generate and chat then go the same way, and hand out a `Generation`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

from corral.core.access.limits import RateLimits
from corral.core.generation.answer_checks import schema_to_check, with_format_check
from corral.core.generation.answers import Generation
from corral.core.generation.asking import FoundCall, look_up
from corral.core.generation.assembling import resolved_options
from corral.core.generation.chat_formats import ChatFormats
from corral.core.generation.completing import completed, prompt_of
from corral.core.generation.embedding import embed_texts
from corral.core.generation.filling_in import fitting_insert
from corral.core.generation.opening import ANSWERING, EMBEDDING, Catalog, ModelOpener, Scheduler
from corral.core.generation.parser_choice import ParserChoice
from corral.core.generation.parsing import parsed
from corral.core.generation.prompt_counting import prefilled_tokens
from corral.core.generation.prompting import shown_text
from corral.core.generation.refusals import (
    require_capability,
    require_features,
    require_rendering,
    require_task,
    with_enforceable_budget,
)
from corral.core.generation.reranking import Reranking
from corral.core.generation.single_call import until_first_call
from corral.core.generation.time_limit import until_late
from corral.core.generation.tokens import TokenService
from corral.core.ports.chat import ChatLanguage
from corral.core.ports.format_checks import FormatChecker
from corral.core.requests.caller import Caller
from corral.core.requests.calls import (
    ChatCall,
    EmbedCall,
    EmbedResult,
    GenerateCall,
    LoadCall,
    RerankCall,
    RerankResult,
    UnloadCall,
)
from corral.core.requests.outputs import Embedded, Vectors
from corral.core.requests.prompts import Prompt
from corral.core.requests.requests import ChatRequest, CompletionRequest
from corral.core.requests.vectors import check_finite, normalise
from corral.core.scheduling.load_progress import LoadListener

__all__ = ("InferenceService",)

_log = logging.getLogger(__name__)


class InferenceService:
    """Every use case loads the model if need be, and raises errors of `corral.core.errors` only.

    `languages` are those that chat templates may be written in, by name; `parsers` are those that read answers.
    Without a `checker`, finished answers are not compared with their JSON Schema. Each call is checked against its
    caller's rights, and its tokens are charged to the caller's account in `limits`. `tokens` has the use cases that
    only tokenize.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        scheduler: Scheduler,
        languages: Mapping[str, ChatLanguage],
        parsers: ParserChoice,
        checker: FormatChecker | None = None,
        go_template: bool | None = None,
        limits: RateLimits | None = None,
    ) -> None:
        self._catalog = catalog
        self._scheduler = scheduler
        self._models = ModelOpener(catalog, scheduler)
        self._parsers = parsers
        self._checker = checker
        self._limits = limits or RateLimits()
        self._reranking = Reranking(catalog, self._models, self._limits)
        self._formats = ChatFormats(languages, parsers, go_template)
        self.tokens = TokenService(self._models, self._formats)
        # Arithmetic on thousands of vectors takes one of the threads that all requests share, never several.
        self._one_at_a_time = asyncio.Lock()

    async def generate(self, call: GenerateCall) -> Generation:
        """Outputs: `Started`, `Delta`s, `Finished`. Errors in the call or the model are raised here, at once.

        The prompt becomes a chat unless it is raw.
        """
        return await self._answer(await look_up(self._models, self._formats, call))

    async def chat(self, call: ChatCall) -> Generation:
        """Outputs: `Started`, `Delta`s, `Finished`. Errors in the call or the model are raised here, at once."""
        return await self._answer(await look_up(self._models, self._formats, call))

    async def render(self, call: GenerateCall | ChatCall) -> tuple[Prompt, str]:
        """The prompt that a call would run with, and its text, without running it. Loads the model if need be.

        Raises what `generate` and `chat` raise, and `Unsupported` if the model's chats are not rendered here.
        """
        asked = await look_up(self._models, self._formats, call)
        async with self._models.lease(asked.view, asked.call, asked.options, ANSWERING) as lease:
            require_rendering(lease, asked.request, call.model)
            prompt = await prompt_of(asked.view, lease.model, asked.request, self._formats)
            return prompt, await shown_text(prompt, lease.model)

    async def count_tokens(self, call: ChatCall) -> int:
        """How many tokens the prompt of this chat has, all of it, whether or not it fits into the context.

        Images are computed, so they need the whole model; otherwise it goes as `TokenService.of_chat`, which need not
        load it. Raises what `chat` raises, and `Unsupported` if chats are not rendered here.
        """
        if any(message.images for message in call.messages):
            return await prefilled_tokens(self.chat, call)
        return len((await self.tokens.of_chat(call)).ids)

    async def embed(self, call: EmbedCall) -> EmbedResult:
        """Without inputs it only loads the model. Raises `PromptTooLong` for an input that is too long to be cut."""
        started_ns = time.perf_counter_ns()
        view = await self._models.view(call)
        options = resolved_options(view, call.options)
        async with self._models.lease(view, call, options, EMBEDDING) as lease:
            require_task(lease, "embedding", call.model, "embeddings")
            embedded = Embedded(vectors=Vectors(dimensions=0, float32=b""), prompt_tokens=0)
            if call.inputs:
                embedded = await embed_texts(lease.model, call, options.asked_num_ctx)
                self._limits.charge(call.caller.principal, embedded.prompt_tokens)
            load_ns, ignored = lease.load_ns, lease.ignored_options
            if ignored:
                name = view.record.name.short
                _log.warning("%s: the %s engine ignores these options: %s", name, lease.engine, ", ".join(ignored))
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

    async def rerank(self, call: RerankCall) -> RerankResult:
        """Without documents it only loads the model. Raises `Unsupported`, before it loads anything, for a model that
        is no reranker, and `PromptTooLong` for a text that is too long to be cut.
        """
        return await self._reranking.rerank(call)

    async def rerankers(self, caller: Caller) -> list[str]:
        """The names of models that can rerank, of those that the caller may use: three at most."""
        return await self._reranking.rerankers(caller)

    async def load(self, call: LoadCall, on_progress: LoadListener | None = None) -> int:
        """Load a model, or extend its stay. Returns the nanoseconds it took, 0 if it was loaded already.

        A model is not loaded for a task or a capability that it does not have.
        """
        view, options, call = await self._models.begun(call, call.task)
        for needed in call.needed_capabilities:
            require_capability(view.record, view.capabilities, needed)
        async with self._models.lease(view, call, options, (), on_progress) as lease:
            return lease.load_ns

    async def unload(self, call: UnloadCall) -> bool:
        """Free a model once its requests have ended. False if it was not loaded."""
        return await self._scheduler.unload(await self._catalog.get(self._models.permitted(call)))

    def close(self) -> None:
        """Ends its threads without waiting. Call it once no request is in progress."""
        self._formats.close()

    async def _answer(self, asked: FoundCall) -> Generation:
        view, call, request, unknown = asked.view, asked.call, asked.request, asked.options.unknown
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(self._models.lease(view, call, asked.options, ANSWERING))
            owns_format = isinstance(request, ChatRequest) and "chat" in lease.model.info.tasks
            if not owns_format:
                require_task(lease, "completion", call.model, asked.task)
            require_features(lease, call, owns_format=owns_format)
            if not owns_format and asked.options.thinking_budget is not None and call.think is not False:
                request, unlimited = with_enforceable_budget(lease, request)
                unknown = (*unknown, *unlimited)
            if owns_format:
                outputs = lease.model.run(request)
                if isinstance(request, ChatRequest) and request.tools:
                    in_pieces = request.tool_calls_in_pieces
                    outputs = parsed(outputs, (), view.record.name.short, calls_in_pieces=in_pieces)
            else:
                if isinstance(call, GenerateCall) and call.insert and isinstance(request, CompletionRequest):
                    request = await fitting_insert(request, lease.model)
                outputs = await completed(view, lease.model, request, self._formats, self._parsers)
            if getattr(request, "tools", ()) and not getattr(request, "parallel_tool_calls", True):
                outputs = until_first_call(outputs)
            if isinstance(call, GenerateCall) and call.most_decode_s is not None:
                outputs = until_late(outputs, call.most_decode_s)
            if self._checker is not None and (schema := schema_to_check(call)) is not None:
                outputs = with_format_check(outputs, schema, self._checker)
            outputs = self._limits.metered(outputs, call.caller.principal)
            return Generation(view.record, lease, outputs, stack.pop_all(), unknown)
