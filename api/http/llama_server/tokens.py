"""``/tokenize``, ``/detokenize`` and ``/apply-template``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, Response, post

from corral.api.http.chat_messages import media_characters, read_messages
from corral.api.http.chat_tools import chosen_tools, read_tools
from corral.api.http.errors import JSON
from corral.api.http.llama_server.bodies import ApplyTemplateBody, DetokenizeTokensBody, TokenizeContentBody
from corral.api.http.llama_server.opening import begun, ignored_headers, loading
from corral.api.http.media_decoding import beside_the_loop
from corral.api.http.prologue import INFERENCE_STATUSES
from corral.api.http.token_pieces import Piece, pieces_in_json
from corral.core.requests.calls import ChatCall
from corral.core.requests.think_values import check_think
from corral.core.requests.tokens import DetokenizeCall, TokenizeCall

__all__ = ("apply_template", "detokenize", "tokenize")

_encode = msgspec.json.Encoder().encode


class TokenWithPiece(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    piece: Piece


class TokenList(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/tokenize``: ids, or with pieces."""

    tokens: Sequence[int | TokenWithPiece]


class DetokenizedText(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/detokenize``."""

    content: str


class AppliedTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/apply-template``."""

    prompt: str


@post(
    "/",
    status_code=200,
    operation_id="tokenizeContent",
    opt={"body": TokenizeContentBody, "reply": TokenList, "statuses": INFERENCE_STATUSES},
)
async def tokenize(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The tokens of a text, as llama-server answers."""
    asked = await begun(request, TokenizeContentBody)
    body = asked.body
    content = tuple(body.content) if isinstance(body.content, list) else (body.content,)
    call = TokenizeCall(
        text=content,
        add_special=body.add_special,
        parse_special=body.parse_special,
        with_pieces=body.with_pieces,
        options=body.options,
        **loading(asked),
    )
    with asked:
        found = await asked.unless_client_leaves(asked.runtime.inference.tokens.of_text(call))
    asked.log.prompt_tokens = len(found.ids)
    reply = TokenList(tokens=found.ids)
    if found.pieces is not None:
        pieces = await pieces_in_json(found.pieces)
        pairs = zip(found.ids, pieces, strict=True)
        reply = TokenList(tokens=[TokenWithPiece(id=token_id, piece=piece) for token_id, piece in pairs])
    return Response(_encode(reply), media_type=JSON, headers=ignored_headers(body))


@post(
    "/",
    status_code=200,
    operation_id="detokenizeTokens",
    opt={"body": DetokenizeTokensBody, "reply": DetokenizedText, "statuses": INFERENCE_STATUSES},
)
async def detokenize(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The text of tokens, as llama-server answers."""
    asked = await begun(request, DetokenizeTokensBody)
    body = asked.body
    call = DetokenizeCall(ids=body.tokens, options=body.options, **loading(asked))
    with asked:
        found = await asked.unless_client_leaves(asked.runtime.inference.tokens.text_of(call))
    return Response(_encode(DetokenizedText(content=found.text)), media_type=JSON, headers=ignored_headers(body))


@post(
    "/",
    status_code=200,
    operation_id="applyTemplate",
    opt={"body": ApplyTemplateBody, "reply": AppliedTemplate, "statuses": INFERENCE_STATUSES},
)
async def apply_template(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The prompt that a chat becomes."""
    asked = await begun(request, ApplyTemplateBody)
    body = asked.body
    given = body.messages or []
    check_think(body.think)
    messages = await beside_the_loop(
        lambda: read_messages(given), sum([media_characters(message) for message in given])
    )
    tools, choice = chosen_tools(read_tools(body.tools), body.tool_choice)
    call = ChatCall(
        messages=messages, tools=tools, tool_choice=choice, think=body.think, options=body.options, **loading(asked)
    )
    with asked:
        prompt = await asked.unless_client_leaves(asked.runtime.inference.tokens.rendered(call))
    return Response(_encode(AppliedTemplate(prompt=prompt)), media_type=JSON, headers=ignored_headers(body))
