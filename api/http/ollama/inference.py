"""``/api/generate`` and ``/api/chat``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from litestar import Request, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from corral.api.http.answers import AnswerResponse
from corral.api.http.errors import JSON, ApiError
from corral.api.http.media_decoding import beside_the_loop
from corral.api.http.ollama.bodies import ChatBody, GenerateBody, InferenceBody, MessageBody, decoded_images
from corral.api.http.ollama.chunks import AnswerWriter, ChatWriter, GenerateWriter
from corral.api.http.ollama.replies import ChatReply, GenerateReply
from corral.api.http.prologue import INFERENCE_STATUSES, InferenceRequest, begin
from corral.core.errors import InvalidOption, InvalidRequest
from corral.core.generation.answers import Generation
from corral.core.generation.refusals import refuse_beside_raw
from corral.core.requests.answer_format import read_format
from corral.core.requests.calls import ChatCall, GenerateCall, LoadCall, UnloadCall
from corral.core.requests.prompts import MediaPart
from corral.core.requests.requests import Constraint
from corral.core.requests.think_values import check_think
from corral.core.requests.tool_choice import read_tool_choice

__all__ = ("chat", "generate", "image_characters")

BodyT = TypeVar("BodyT", bound=InferenceBody)

_NOT_FOUND = "model '{}' not found"
_MOST_TOP_LOGPROBS = 20


@post(
    "/api/generate",
    status_code=200,
    operation_id="generate",
    opt={
        "scope": "infer",
        "body": GenerateBody,
        "reply": GenerateReply,
        "ndjson": True,
        "statuses": INFERENCE_STATUSES,
    },
)
async def generate(request: Request[Any, Any, Any]) -> ASGIApp:
    """Completes a prompt. Without one, loads the model, or unloads it if `keep_alive` is 0."""
    begun = await begin(
        request, GenerateBody, check=_check, no_model=ApiError(404, "model '{}' not found"), not_found=_NOT_FOUND
    )
    body = begun.body
    writer = GenerateWriter(body.model, begun.log.started_ns, with_context=not body.raw)
    with begun:
        if not body.prompt and not body.images and begun.keep_alive_s == 0:
            return await _unload(begun, writer)
        try:
            refuse_beside_raw(body.raw, body.template, body.system, body.context)
        except InvalidRequest:
            await begun.models.get(begun.name)
            raise
        if not body.prompt and not body.images:
            return await _load(begun, writer, "generate", ("insert",) if body.suffix else ())
        constraint = await _constraint(begun)
    call = GenerateCall(
        prompt=body.prompt,
        images=await beside_the_loop(lambda: decoded_images(body.images), image_characters((body,))),
        system=body.system or None,
        template=body.template,
        raw=body.raw,
        suffix=body.suffix,
        earlier_ids=body.context,
        return_token_ids=not body.raw,
        **_answering(begun, constraint),
    )
    if body.debug_render_only:
        return await _render(begun, writer, call)

    async def open_generation() -> Generation:
        with begun:
            return await begun.runtime.inference.generate(call)

    return AnswerResponse(open_generation, writer, stream=body.stream)


@post(
    "/api/chat",
    status_code=200,
    operation_id="chat",
    opt={"scope": "infer", "body": ChatBody, "reply": ChatReply, "ndjson": True, "statuses": INFERENCE_STATUSES},
)
async def chat(request: Request[Any, Any, Any]) -> ASGIApp:
    """Answers a conversation. Without messages, loads the model, or unloads it if `keep_alive` is 0."""
    begun = await begin(
        request, ChatBody, check=_check, no_model=ApiError(400, "model is required"), not_found=_NOT_FOUND
    )
    body = begun.body
    writer = ChatWriter(body.model, begun.log.started_ns)
    with begun:
        if not body.messages and begun.keep_alive_s == 0:
            return await _unload(begun, writer)
        if not body.messages:
            return await _load(begun, writer, "chat", ("tools",) if body.tools else ())
        constraint = await _constraint(begun)
        tool_choice = read_tool_choice(body.tool_choice)
    call = ChatCall(
        messages=await beside_the_loop(
            lambda: tuple(one.to_core() for one in body.messages), image_characters(body.messages)
        ),
        tools=tuple(tool.to_core() for tool in body.tools),
        tool_choice=tool_choice,
        **_answering(begun, constraint),
    )
    if body.debug_render_only:
        return await _render(begun, writer, call)

    async def open_generation() -> Generation:
        with begun:
            return await begun.runtime.inference.chat(call)

    return AnswerResponse(open_generation, writer, stream=body.stream)


def image_characters(holders: Iterable[GenerateBody | MessageBody]) -> int:
    """The size of their images, still encoded."""
    return sum([len(image) for one in holders for image in one.images])


def _check(body: InferenceBody) -> None:
    _check_think(body.think)
    if not 0 <= body.top_logprobs <= _MOST_TOP_LOGPROBS:
        raise ApiError(400, f"top_logprobs must be between 0 and {_MOST_TOP_LOGPROBS}")


def _answering(begun: InferenceRequest[BodyT], constraint: Constraint | None) -> dict[str, Any]:
    """The fields of an `AnswerCall` that both routes take from the body."""
    body = begun.body
    return {
        "model": begun.model,
        "caller": begun.caller,
        "options": body.options,
        "keep_alive_s": begun.keep_alive_s,
        "think": body.think,
        "logprobs": _logprobs(body),
        "shift": body.shift,
        "truncate": body.truncate,
        "constraint": constraint,
    }


def _logprobs(body: InferenceBody) -> int | None:
    return body.top_logprobs if body.logprobs else None


def _check_think(think: Any) -> None:
    """Ollama rejects these while decoding the body."""
    try:
        check_think(think)
    except InvalidRequest as error:
        raise ApiError(400, error.message) from error


async def _constraint(begun: InferenceRequest[BodyT]) -> Constraint | None:
    """The constraint on the answer. If the model is unknown too, that error takes precedence over a wrong format."""
    try:
        return read_format(begun.body.format)
    except InvalidOption:
        await begun.models.get(begun.name)
        raise


async def _render(
    begun: InferenceRequest[BodyT], writer: AnswerWriter[Any], call: GenerateCall | ChatCall
) -> ASGIResponse:
    """Answers with the prompt, never a stream."""
    with begun:
        prompt, text = await begun.unless_client_leaves(begun.runtime.inference.render(call))
    images = sum(isinstance(part, MediaPart) for part in prompt)
    return ASGIResponse(body=writer.rendered(text, images), media_type=JSON)


async def _load(
    begun: InferenceRequest[BodyT],
    writer: AnswerWriter[Any],
    task: Literal["generate", "chat"],
    needed: tuple[str, ...],
) -> ASGIResponse:
    """Answers with one object, never a stream."""
    call = LoadCall(
        model=begun.model,
        caller=begun.caller,
        options=begun.body.options,
        keep_alive_s=begun.keep_alive_s,
        task=task,
        think=begun.body.think,
        needed_capabilities=needed,
    )
    await begun.unless_client_leaves(begun.runtime.inference.load(call))
    return ASGIResponse(body=writer.empty("load"), media_type=JSON)


async def _unload(begun: InferenceRequest[BodyT], writer: AnswerWriter[Any]) -> ASGIResponse:
    """Answers with one object, never a stream, whether or not the model was loaded."""
    call = UnloadCall(model=begun.model, caller=begun.caller)
    await begun.unless_client_leaves(begun.runtime.inference.unload(call))
    return ASGIResponse(body=writer.empty("unload"), media_type=JSON)
