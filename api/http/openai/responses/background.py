"""Responses in the background: they begin, are followed, and are cancelled."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from litestar import Request, Response, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, Receive, Scope, Send

from corral.api.http.admission import give_up_place
from corral.api.http.answers import unbroken
from corral.api.http.body_memory import BodyMemory
from corral.api.http.disconnect import CancelOnDisconnect
from corral.api.http.errors import JSON, ApiError
from corral.api.http.openai.responses.body import ResponseBody
from corral.api.http.openai.responses.conversation import Conversations
from corral.api.http.openai.responses.live import LiveEvents, LiveResponse
from corral.api.http.openai.responses.replies import ResponseReply
from corral.api.http.pings import Pings
from corral.api.http.prologue import InferenceRequest
from corral.api.http.sse import COMMENT, EVENT_STREAM
from corral.core.errors import Cancelled, ServerBusy

__all__ = ("FollowedResponse", "cancel_response", "go_on")

_encode = msgspec.json.Encoder().encode


async def go_on(request: Request[Any, Any, Any], begun: InferenceRequest[ResponseBody], live: LiveResponse) -> ASGIApp:
    """Begins a response that goes on after its client has left, and the answer to the client. The memory of the request
    counts until the response has ended.

    Raises `ApiError` if it cannot be stored, `TooManyRequests`, and `ServerBusy`; then there is no response.
    """
    memory: BodyMemory = request.app.state.bodies
    reply = live.writer.reply
    if not reply.store:
        raise ApiError(400, "background: only a response that is stored can be asked for later", param="background")
    with begun.runtime.background.place(begun.caller.principal) as start:
        await live.begin()
        if not live.writer.reply.store:
            raise ApiError(500, "background: the response cannot be stored; the server's log says why")
        start(reply.id, live, live.run, memory.hand_over(request.scope))
    if begun.body.stream:
        return FollowedResponse(live.events, 0, live.writer.remarks.headers())
    headers = {name.decode(): value.decode() for name, value in live.writer.remarks.headers()}
    return ASGIResponse(body=_encode(reply), media_type=JSON, headers=headers)


class FollowedResponse:
    """An ASGI response: the events of a response in the background, from a number on. It may be left at any time.

    It takes no place among the requests that its client may have at once: the response does. So its own number is
    limited.
    """

    def __init__(self, events: LiveEvents, first: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._events = events
        self._first = first
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises `TooManyRequests` if many follow the response already."""
        with self._events.followed():
            give_up_place(scope)
            await self._send(scope, send)

    async def _send(self, scope: Scope, send: Send) -> None:
        headers = [(b"content-type", EVENT_STREAM), *self._headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def send_part(part: bytes) -> None:
            await send({"type": "http.response.body", "body": part, "more_body": True})

        with suppress(Cancelled, ServerBusy):  # the client has left, or the server stops
            async with CancelOnDisconnect(scope), Pings(lambda: send_part(COMMENT)) as pings:
                async for part in self._events.follow(self._first):
                    pings.sent()
                    await send_part(unbroken(part))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@post(
    "/responses/{response_id:str}/cancel",
    status_code=200,
    operation_id="cancelResponse",
    opt={"reply": ResponseReply, "statuses": (404,)},
)
async def cancel_response(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Ends a response in the background. One that has ended already is answered as it is."""
    conversations, id = Conversations(request), request.path_params["response_id"]
    await conversations.cancel(id)
    return Response((await conversations.get(id)).reply, media_type=JSON)
