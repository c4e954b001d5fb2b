"""``/api/tokenize`` and ``/api/detokenize``: the tokens of a text or a chat, without an answer."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, post

from corral.api.http.errors import JSON, ApiError
from corral.api.http.media_decoding import beside_the_loop
from corral.api.http.ollama.inference import image_characters
from corral.api.http.ollama.token_bodies import DetokenizeBody, DetokenizeReply, TokenizeBody, TokenizeReply
from corral.api.http.prologue import INFERENCE_STATUSES, InferenceRequest, begin
from corral.api.http.token_pieces import Piece, pieces_in_json
from corral.core.requests.calls import ChatCall
from corral.core.requests.think_values import check_think
from corral.core.requests.tokens import DetokenizeCall, TokenizeCall, Tokens

__all__ = ("detokenize", "tokenize")

_NO_MODEL = ApiError(400, "model is required")
_NOT_FOUND = "model '{}' not found"

_encode = msgspec.json.Encoder().encode


@post(
    "/api/tokenize",
    status_code=200,
    operation_id="tokenize",
    opt={"scope": "infer", "body": TokenizeBody, "reply": TokenizeReply, "statuses": INFERENCE_STATUSES},
)
async def tokenize(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The tokens of a text, or of the prompt that a chat becomes. Loads no weights if the vocabulary is enough."""
    begun = await begin(request, TokenizeBody, no_model=_NO_MODEL, not_found=_NOT_FOUND)
    body, tokens = begun.body, begun.runtime.inference.tokens
    with begun:
        if body.messages is not None:
            work = tokens.of_chat(await _chat(begun), with_pieces=body.with_pieces)
        else:
            work = tokens.of_text(
                TokenizeCall(
                    text=body.prompt or body.content or "",
                    add_special=body.add_special,
                    parse_special=body.parse_special,
                    with_pieces=body.with_pieces,
                    **_loading(begun),
                )
            )
        found = await begun.unless_client_leaves(work)
    begun.log.prompt_tokens = len(found.ids)
    reply = TokenizeReply(
        model=body.model,
        tokens=found.ids,
        count=len(found.ids),
        prompt=found.text if body.with_prompt else None,
        pieces=await _pieces(found),
    )
    return Response(_encode(reply), media_type=JSON)


@post(
    "/api/detokenize",
    status_code=200,
    operation_id="detokenize",
    opt={"scope": "infer", "body": DetokenizeBody, "reply": DetokenizeReply, "statuses": INFERENCE_STATUSES},
)
async def detokenize(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The text of tokens. Loads no weights if the vocabulary is enough."""
    begun = await begin(request, DetokenizeBody, no_model=_NO_MODEL, not_found=_NOT_FOUND)
    body = begun.body
    call = DetokenizeCall(ids=body.tokens, with_pieces=body.with_pieces, **_loading(begun))
    with begun:
        found = await begun.unless_client_leaves(begun.runtime.inference.tokens.text_of(call))
    reply = DetokenizeReply(model=body.model, content=found.text, pieces=await _pieces(found))
    return Response(_encode(reply), media_type=JSON)


async def _chat(begun: InferenceRequest[TokenizeBody]) -> ChatCall:
    body = begun.body
    check_think(body.think)
    given = body.messages or ()
    messages = await beside_the_loop(lambda: tuple(one.to_core() for one in given), image_characters(given))
    tools = tuple(tool.to_core() for tool in body.tools)
    return ChatCall(messages=messages, tools=tools, think=body.think, **_loading(begun))


def _loading(begun: InferenceRequest[Any]) -> dict[str, Any]:
    """The fields of a `LoadingCall`."""
    return {
        "model": begun.model,
        "caller": begun.caller,
        "options": begun.body.options,
        "keep_alive_s": begun.keep_alive_s,
        "engine": begun.body.engine or None,
    }


async def _pieces(found: Tokens) -> list[Piece] | None:
    return None if found.pieces is None else await pieces_in_json(found.pieces)
