"""A model behind one or several addresses, as a `RunningModel`."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing

from corral.adapters.engines.upstream import ollama, openai_answers, openai_requests
from corral.adapters.engines.upstream.addresses import next_address
from corral.adapters.engines.upstream.answer_tracking import AnswerProgress
from corral.adapters.engines.upstream.api_request import Exchange, plain_text
from corral.adapters.engines.upstream.endpoint import Endpoint
from corral.adapters.engines.upstream.lines import read_events, read_lines
from corral.adapters.engines.upstream.offers import known_api
from corral.adapters.engines.upstream.refusals import Unavailable, error_in_answer
from corral.core.errors import CorralError, ServerBusy, Unsupported, UpstreamError
from corral.core.ports.running import ModelInfo
from corral.core.requests.outputs import Embedded, Finished, Output, Vectors
from corral.core.requests.prompts import Prompt
from corral.core.requests.requests import ChatRequest, CompletionRequest, EmbedRequest, Request

__all__ = ("UpstreamModel",)

_log = logging.getLogger("corral.engine")

_OLLAMA_APIS = ("ollama", "corral")
_TEXTS_PER_REQUEST = 64
_NO_TOKENIZER = "the tokens of an upstream model are unknown"


class UpstreamModel:
    """Each request goes to the least busy address, and to another one if that fails before its first output."""

    def __init__(self, info: ModelInfo, endpoints: Sequence[Endpoint]) -> None:
        self.info = info
        self._endpoints = tuple(endpoints)
        self._closed = False

    @property
    def alive(self) -> bool:
        return not self._closed

    async def run(self, request: Request) -> AsyncGenerator[Output, None]:
        if isinstance(request, EmbedRequest):
            yield await self._embedded(request)
            return
        if not isinstance(request, ChatRequest | CompletionRequest):
            raise Unsupported(f"an upstream does not accept a {type(request).__name__}")
        attempts = _Attempts(self._endpoints)
        for endpoint in attempts:
            begun = False
            try:
                async with aclosing(self._answer(endpoint, request)) as outputs:
                    async for output in outputs:
                        begun = True
                        yield output
                return
            except (Unavailable, ServerBusy) as error:
                if begun:
                    raise
                attempts.failed(endpoint, error)

    async def tokenize(
        self, prompts: Sequence[Prompt], *, most: int | None = None, cut: bool = False
    ) -> list[tuple[int, ...]]:
        raise Unsupported(_NO_TOKENIZER)

    async def detokenize(self, ids: Sequence[int]) -> str:
        raise Unsupported(_NO_TOKENIZER)

    async def pieces(self, ids: Sequence[int]) -> list[bytes]:
        raise Unsupported(_NO_TOKENIZER)

    async def aclose(self) -> None:
        self._closed = True
        for endpoint in self._endpoints:
            await endpoint.aclose()

    async def _answer(
        self, endpoint: Endpoint, request: ChatRequest | CompletionRequest
    ) -> AsyncGenerator[Output, None]:
        with endpoint.secrets.kept():
            exchange = self._exchange(endpoint, await known_api(endpoint), request)
            progress = AnswerProgress(
                exchange,
                endpoint.address,
                num_predict=request.sampling.num_predict,
                max_bytes=endpoint.max_answer_bytes,
            )
            async with (
                endpoint.post(exchange.path, exchange.body, request.caller.passed) as chunks,
                aclosing(read_lines(chunks, endpoint.address)) as lines,
                aclosing(endpoint.in_time(_read(endpoint, lines, exchange, progress))) as outputs,
            ):
                async for output in outputs:
                    if progress.ignored_there and isinstance(output, Finished):
                        ignored = endpoint.secrets.hidden_in(", ".join(progress.ignored_there)[:200])
                        _log.warning("%s: ignored options: %s", endpoint.address, ignored)
                    yield output

    def _exchange(self, endpoint: Endpoint, api: str, request: ChatRequest | CompletionRequest) -> Exchange:
        if api in _OLLAMA_APIS:
            if isinstance(request, ChatRequest):
                return ollama.chat_exchange(request, endpoint.model, api)
            return ollama.completion_exchange(request, endpoint.model, api)
        if isinstance(request, ChatRequest):
            return openai_requests.chat_exchange(request, endpoint.model, api)
        return openai_requests.completion_exchange(request, endpoint.model, api, self.info.context_length)

    async def _embedded(self, request: EmbedRequest) -> Embedded:
        """Sends the texts in several requests, one after the other, so that no answer takes too much memory."""
        texts = [plain_text(prompt) for prompt in request.inputs]
        parts = [
            await self._piece(request, texts[start : start + _TEXTS_PER_REQUEST])
            for start in range(0, len(texts), _TEXTS_PER_REQUEST)
        ]
        return Embedded(
            vectors=Vectors(
                dimensions=parts[0].vectors.dimensions if parts else 0,
                float32=b"".join(part.vectors.float32 for part in parts),
            ),
            prompt_tokens=sum(part.prompt_tokens for part in parts),
        )

    async def _piece(self, request: EmbedRequest, texts: Sequence[str]) -> Embedded:
        attempts = _Attempts(self._endpoints)
        for endpoint in attempts:
            try:
                with endpoint.secrets.kept():
                    return await _vectors(endpoint, texts, request)
            except (Unavailable, ServerBusy) as error:
                attempts.failed(endpoint, error)
        raise AssertionError("attempts end with an answer or an error")


def _read(
    endpoint: Endpoint, lines: AsyncIterator[bytes], exchange: Exchange, progress: AnswerProgress
) -> AsyncGenerator[Output, None]:
    if endpoint.api in _OLLAMA_APIS:
        return ollama.read_answer(lines, exchange, progress)

    def error_in(body: bytes) -> CorralError | None:
        return error_in_answer(endpoint.address, exchange.path, endpoint.model, body)

    return openai_answers.read_answer(read_events(lines, endpoint.address, error_in), exchange, progress)


async def _vectors(endpoint: Endpoint, texts: Sequence[str], request: EmbedRequest) -> Embedded:
    api = await known_api(endpoint)
    if api in _OLLAMA_APIS:
        exchange = ollama.embed_exchange(texts, endpoint.model, truncate=request.truncate, num_ctx=request.num_ctx)
        read = ollama.read_vectors
    else:
        exchange = openai_requests.embed_exchange(texts, endpoint.model, api, truncate=request.truncate)
        read = openai_answers.read_vectors
    data = await endpoint.call("POST", exchange.path, exchange.body, request.caller.passed)
    return read(data, endpoint.address, len(texts))


class _Attempts:
    """The addresses to try for one answer, one after the other. Iterating past the last one raises their error."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._tried: list[Endpoint] = []
        self._problem: CorralError = UpstreamError("no address is left to try")

    def __iter__(self) -> Iterator[Endpoint]:
        while (endpoint := next_address(self._endpoints, self._tried)) is not None:
            self._tried.append(endpoint)
            yield endpoint
        raise self._problem

    def failed(self, endpoint: Endpoint, error: Unavailable | ServerBusy) -> None:
        """An unavailable address rests. The error of a busy server takes precedence, since it says more."""
        if isinstance(error, Unavailable):
            endpoint.rest()
        if not isinstance(self._problem, ServerBusy):
            self._problem = error
