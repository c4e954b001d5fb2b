"""The routes of stored responses: one of them, what it was made from, and its deletion."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, delete, get
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from corral.api.http.answers import unbroken
from corral.api.http.errors import JSON, ApiError
from corral.api.http.media_decoding import beside_the_loop
from corral.api.http.openai.responses.background import FollowedResponse
from corral.api.http.openai.responses.conversation import Conversations
from corral.api.http.openai.responses.replies import DeletedResponse, InputItemList, ResponseReply
from corral.api.http.sse import EVENT_STREAM, event

__all__ = ("delete_response", "get_response", "list_input_items")

_encode = msgspec.json.Encoder().encode


class _Status(msgspec.Struct):
    status: str


_status = msgspec.json.Decoder(_Status).decode
_raw_items = msgspec.json.Decoder(list[dict[str, Any]]).decode
_MOST_ITEMS, _FEW_ITEMS = 100, 20
_TEXT = {"type": "string"}
_STREAMING = {"stream": {"type": "boolean"}, "starting_after": {"type": "integer", "minimum": 0}}
_PAGING = {
    "order": {"type": "string", "enum": ["asc", "desc"], "default": "desc"},
    "limit": {"type": "integer", "minimum": 1, "maximum": _MOST_ITEMS, "default": _FEW_ITEMS},
    "after": _TEXT,
    "before": _TEXT,
}


@get(
    "/responses/{response_id:str}",
    operation_id="getResponse",
    opt={"reply": ResponseReply, "events": True, "statuses": (404,), "query": _STREAMING},
)
async def get_response(request: Request[Any, Any, Any]) -> ASGIApp:
    """A response that was stored, or that is in progress in the background; with ``stream=true``, its events."""
    conversations, id = Conversations(request), request.path_params["response_id"]
    kept = await conversations.get(id)
    if request.query_params.get("stream") not in ("true", "1"):
        return ASGIResponse(body=kept.reply, media_type=JSON)
    after = request.query_params.get("starting_after", "-1")
    if after != "-1" and not (after.isdecimal() and len(after) < 10):
        raise ApiError(400, "starting_after is the number of an event", param="starting_after")
    live = conversations.live(id)
    if live is None:
        last = b'{"type":"response.%s","sequence_number":%d,"response":%s}'
        status = _status(kept.reply).status.replace("cancelled", "incomplete").encode()
        body = event(last % (status, int(after) + 1, kept.reply), b"response." + status)
        return ASGIResponse(body=unbroken(body), media_type=EVENT_STREAM.decode())
    if not live.writer.streams:
        raise ApiError(400, "the response has no events: it was created without stream: true", param="stream")
    return FollowedResponse(live.events, int(after) + 1, [])


@delete(
    "/responses/{response_id:str}",
    status_code=200,
    operation_id="deleteResponse",
    opt={"reply": DeletedResponse, "statuses": (404,)},
)
async def delete_response(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Deletes a response. Those that went on from it stay."""
    id = request.path_params["response_id"]
    await Conversations(request).delete(id)
    return Response(_encode(DeletedResponse(id=id)), media_type=JSON)


@get(
    "/responses/{response_id:str}/input_items",
    operation_id="listInputItems",
    opt={"reply": InputItemList, "statuses": (404,), "query": _PAGING},
)
async def list_input_items(request: Request[Any, Any, Any]) -> Response[bytes]:
    """All that a response was made from, the newest first unless `order` is ``asc``, in pages."""
    asked = request.query_params
    order = asked.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, f'order is "{order}"; use "asc" or "desc"', param="order")
    limit = asked.get("limit", str(_FEW_ITEMS))
    if not limit.isdecimal() or len(limit) > 3 or not 1 <= int(limit) <= _MOST_ITEMS:
        raise ApiError(400, f"limit must be between 1 and {_MOST_ITEMS}", param="limit")
    kept = await Conversations(request).get(request.path_params["response_id"])
    items = await beside_the_loop(lambda: _raw_items(kept.input_items), kept.size_bytes)
    if order == "desc":
        items.reverse()
    start = _place(items, asked["after"], "after") + 1 if "after" in asked else 0
    end = _place(items, asked["before"], "before") if "before" in asked else len(items)
    page = items[start:end][: int(limit)]
    reply = InputItemList(
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=start + len(page) < end,
    )
    return Response(_encode(reply), media_type=JSON)


def _place(items: list[dict[str, Any]], id: str, param: str) -> int:
    """Raises `ApiError` 400."""
    place = next((place for place, item in enumerate(items) if item["id"] == id), None)
    if place is None:
        raise ApiError(400, f"{param}: the response has no input item with the id '{id}'", param=param)
    return place
