"""``/api/generate`` and ``/api/chat``."""

from __future__ import annotations

from typing import Any, Literal

from litestar import Request, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from corral.api.http.body import read_json
from corral.api.http.disconnect import CancelOnDisconnect
from corral.api.http.edge import caller_of
from corral.api.http.errors import JSON, ApiError
from corral.api.http.ollama.answers import AnswerResponse
from corral.api.http.ollama.chunks import AnswerWriter, ChatWriter, GenerateWriter
from corral.api.http.ollama.naming import read_name, without_selector
from corral.api.http.ollama.replies import ChatReply, GenerateReply
from corral.api.http.ollama.requests import ChatBody, GenerateBody, InferenceBody, decoded_images
from corral.api.http.request_log import request_log
from corral.core.errors import InvalidOption, ModelNotFound
from corral.core.generation.answers import Generation
from corral.core.go.durations import parse_keep_alive_s
from corral.core.models.names import ModelName
from corral.core.requests.answer_format import read_format
from corral.core.requests.calls import ChatCall, GenerateCall, LoadCall, UnloadCall
from corral.core.requests.requests import Constraint
from corral.core.runtime import Runtime

__all__ = ("chat", "generate")

_MOST_TOP_LOGPROBS = 20
_THINK_LEVELS = ("high", "medium", "low", "max")
_THINK_CHOICES = '"high", "medium", "low", "max", true, or false'


@post("/api/generate", status_code=200, opt={"body": GenerateBody, "reply": GenerateReply, "ndjson": True})
async def generate(request: Request[Any, Any, Any]) -> ASGIApp:
    """Complete a prompt. Without one the model is loaded, or unloaded where `keep_alive` is 0."""
    log = request_log(request.scope)
    body = await read_json(request, GenerateBody)
    log.model = body.model
    keep_alive_s = parse_keep_alive_s(body.keep_alive)
    _check_think(body.think)
    logprobs = _logprobs(body)
    if not body.model.strip():
        raise ApiError(404, "model '' not found")
    model = without_selector(body.model)
    name = read_name(model)
    runtime: Runtime = request.app.state.runtime
    writer = GenerateWriter(body.model, log.started_ns, with_context=not body.raw)
    with _NotFound(body.model):
        if not body.prompt and not body.images and keep_alive_s == 0:
            return await _unload(request, model, writer)
        if body.raw and (body.template or body.system or body.context):
            await runtime.catalog.get(name)
            raise ApiError(400, "raw mode does not support template, system, or context")
        _refuse_later(suffix=body.suffix, template=body.template, context=body.context)
        if not body.prompt and not body.images:
            return await _load(request, body, model, keep_alive_s, writer, "generate")
        constraint = await _constraint(runtime, name, body)
    call = GenerateCall(
        model=model,
        caller=caller_of(request.scope),
        prompt=body.prompt,
        images=decoded_images(body.images),
        system=body.system or None,
        raw=body.raw,
        options=body.options,
        keep_alive_s=keep_alive_s,
        logprobs=logprobs,
        shift=body.shift,
        return_token_ids=not body.raw,
        think=_think(body),
        constraint=constraint,
    )

    async def open_generation() -> Generation:
        with _NotFound(body.model):
            return await runtime.inference.generate(call)

    return AnswerResponse(open_generation, writer, stream=body.stream)


@post("/api/chat", status_code=200, opt={"body": ChatBody, "reply": ChatReply, "ndjson": True})
async def chat(request: Request[Any, Any, Any]) -> ASGIApp:
    """AnswerResponse a conversation. Without messages the model is loaded, or unloaded where `keep_alive` is 0."""
    log = request_log(request.scope)
    body = await read_json(request, ChatBody)
    log.model = body.model
    keep_alive_s = parse_keep_alive_s(body.keep_alive)
    _check_think(body.think)
    logprobs = _logprobs(body)
    if not body.model.strip():
        raise ApiError(400, "model is required")
    model = without_selector(body.model)
    name = read_name(model)
    runtime: Runtime = request.app.state.runtime
    writer = ChatWriter(body.model, log.started_ns)
    with _NotFound(body.model):
        if not body.messages and keep_alive_s == 0:
            return await _unload(request, model, writer)
        if not body.messages:
            return await _load(request, body, model, keep_alive_s, writer, "chat")
        constraint = await _constraint(runtime, name, body)
    call = ChatCall(
        model=model,
        caller=caller_of(request.scope),
        messages=tuple(message.to_core() for message in body.messages),
        tools=tuple(tool.to_core() for tool in body.tools),
        think=_think(body),
        constraint=constraint,
        options=body.options,
        keep_alive_s=keep_alive_s,
        logprobs=logprobs,
        shift=body.shift,
    )

    async def open_generation() -> Generation:
        with _NotFound(body.model):
            return await runtime.inference.chat(call)

    return AnswerResponse(open_generation, writer, stream=body.stream)


class _NotFound:
    """Says ``not found`` of the name as it was typed, as these two routes do."""

    def __init__(self, typed: str) -> None:
        self._typed = typed

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ModelNotFound):
            raise ApiError(404, f"model '{self._typed}' not found") from error


def _logprobs(body: InferenceBody) -> int | None:
    if not 0 <= body.top_logprobs <= _MOST_TOP_LOGPROBS:
        raise ApiError(400, f"top_logprobs must be between 0 and {_MOST_TOP_LOGPROBS}")
    return body.top_logprobs if body.logprobs else None


def _check_think(think: Any) -> None:
    """Ollama refuses these while it decodes the body."""
    if isinstance(think, str) and think and think not in _THINK_LEVELS:
        raise ApiError(400, f'invalid think value: "{think}" (must be {_THINK_CHOICES})')
    if think and not isinstance(think, (bool, str)):
        raise ApiError(400, f"think must be a boolean or string ({_THINK_CHOICES})")


def _think(body: InferenceBody) -> bool | str | None:
    """What was checked to be one of these; an empty text says nothing."""
    return body.think if isinstance(body.think, bool) or body.think else None


async def _constraint(runtime: Runtime, name: ModelName, body: InferenceBody) -> Constraint | None:
    """An unknown model is complained of before a wrong format."""
    try:
        return read_format(body.format)
    except InvalidOption:
        await runtime.catalog.get(name)
        raise


def _refuse_later(**fields: object) -> None:
    """Fields that this version does not serve may be given as long as they are empty: many clients send them so."""
    for name, value in fields.items():
        if value:
            raise ApiError(400, f"{name} is not supported by this version of Corral; omit it")


async def _load(
    request: Request[Any, Any, Any],
    body: InferenceBody,
    model: str,
    keep_alive_s: Any,
    writer: AnswerWriter[Any],
    task: Literal["generate", "chat"],
) -> ASGIResponse:
    """One object, never a stream."""
    runtime: Runtime = request.app.state.runtime
    call = LoadCall(
        model=model, caller=caller_of(request.scope), options=body.options, keep_alive_s=keep_alive_s, task=task
    )
    async with CancelOnDisconnect(request.receive):
        await runtime.inference.load(call)
    return ASGIResponse(body=writer.empty("load"), media_type=JSON)


async def _unload(request: Request[Any, Any, Any], model: str, writer: AnswerWriter[Any]) -> ASGIResponse:
    """One object, never a stream, whether or not the model was loaded."""
    runtime: Runtime = request.app.state.runtime
    async with CancelOnDisconnect(request.receive):
        await runtime.inference.unload(UnloadCall(model=model, caller=caller_of(request.scope)))
    return ASGIResponse(body=writer.empty("unload"), media_type=JSON)
