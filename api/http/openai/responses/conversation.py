"""What responses are kept of, and goes on: the conversation up to a response, which belongs to whoever made it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request

from corral.api.http.body_memory import BodyMemory
from corral.api.http.callers import caller_of
from corral.api.http.chat_messages import media_characters
from corral.api.http.errors import ApiError
from corral.api.http.media_decoding import beside_the_loop
from corral.api.http.openai.responses.items import Item
from corral.api.http.openai.responses.live import LiveResponse
from corral.api.http.openai.responses.replies import ResponseFailure
from corral.api.http.openai.responses.writer import ResponseWriter
from corral.core.errors import CorralError
from corral.core.ports.responses import KeptResponse, ResponseStore
from corral.core.runtime import Runtime

__all__ = ("Conversations",)

_SMALL_BYTES = 64 * 1024
_DECODED = 3
"""How much memory JSON takes with what it is decoded to, at most: most of it is text."""
_UNFINISHED = ("queued", "in_progress")
_STOPPED = "the server that computed the response has stopped"

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_items = msgspec.json.Decoder(list[dict[str, Any]]).decode
_NOT_KEPT = "the response is not stored: "


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What matters here of a kept reply."""

    status: str
    background: bool
    output: list[dict[str, Any]]


_facts = msgspec.json.Decoder(_Facts).decode
_any = msgspec.json.Decoder(dict[str, Any]).decode


class Conversations:
    """The responses of whoever has sent `request`."""

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        runtime: Runtime = request.app.state.runtime
        self._scope = request.scope
        self._memory: BodyMemory = request.app.state.bodies
        self._store: ResponseStore | None = runtime.responses
        self._background = runtime.background
        self.owner = caller_of(request.scope).principal.name

    @property
    def are_kept(self) -> bool:
        """Whether this server keeps responses at all."""
        return self._store is not None

    async def get(self, id: str) -> KeptResponse:
        """A response, also one in the background as far as it is. Raises `ApiError` 404 if there is none, or if it is
        somebody else's."""
        live = self.live(id)
        found = await self._loaded(id)
        if found is None:
            raise _missing(id)
        if live is not None:
            return msgspec.structs.replace(found, reply=_encode(live.writer.current))
        return await beside_the_loop(lambda: _ended(found), len(found.reply))

    def live(self, id: str) -> LiveResponse | None:
        """A response that this server is computing in the background."""
        found = self._background.find(self.owner, id)
        return found if isinstance(found, LiveResponse) else None

    async def cancel(self, id: str) -> None:
        """Ends a response in the background; does nothing to others. Raises `ApiError` 404, and 400 for a response
        that never was there."""
        live = self.live(id)
        if live is not None:
            live.unwanted()
            await self._background.cancel(self.owner, id)
            await live.cancelled()
        elif not _facts((await self.get(id)).reply).background:
            raise ApiError(400, "Cannot cancel a synchronous response.", param="id")

    async def delete(self, id: str) -> None:
        """Raises `ApiError` 404, and `StorageError`."""
        if self.live(id) is not None:
            await self.cancel(id)
        if self._store is None or not await self._store.delete(self.owner, id):
            raise _missing(id)

    async def before(self, previous: str | None) -> list[Item]:
        """The items of the conversation that ended with this response; none without one. Raises `ApiError` 400."""
        if previous is None:
            return []
        if self._store is None:
            text = "previous_response_id: this server keeps no responses (see the setting responses.store)"
            raise ApiError(400, text, param="previous_response_id")
        if self.live(previous) is not None:
            text = f"the response '{previous}' is not finished; wait until it is, or cancel it"
            raise ApiError(400, text, param="previous_response_id")
        kept = await self._loaded(previous)
        if kept is None:
            raise ApiError(
                400,
                f"Previous response with id '{previous}' not found.",
                code="previous_response_not_found",
                param="previous_response_id",
            )
        return await beside_the_loop(lambda: _conversation(kept), kept.size_bytes)

    async def _loaded(self, id: str) -> KeptResponse | None:
        """What is kept of a response. Its memory counts as that of a body, and may be waited for."""
        if self._store is None:
            return None
        async with self._memory.loading:
            kept = await self._store.get(self.owner, id)
            if kept is not None and kept.size_bytes > _SMALL_BYTES:
                await self._memory.take(self._scope, _DECODED * kept.size_bytes)
            return kept

    async def keep(self, writer: ResponseWriter, items: Sequence[Item]) -> None:
        """Keeps a response that has ended. If that is not possible, the response says so, and is answered all the
        same."""
        if self._store is None or not writer.reply.store:
            return
        reply = writer.reply
        try:
            encoded = await beside_the_loop(lambda: _encode(items), media_characters(list(items)))
            kept = KeptResponse(id=reply.id, owner=self.owner, reply=_encode(reply), input_items=encoded)
            if await self._store.put(kept):
                return
            problem = f"it has {kept.size_bytes} bytes (see the setting responses.max_bytes)"
        except CorralError as error:
            _log.warning("a response is not stored: %s", error)
            problem = error.message
        writer.not_kept(_NOT_KEPT + problem)


def _conversation(kept: KeptResponse) -> list[Item]:
    return [*_items(kept.input_items), *_facts(kept.reply).output]


def _ended(kept: KeptResponse) -> KeptResponse:
    """The response, which nobody computes. One that was in the background when the server stopped has failed."""
    if _facts(kept.reply).status not in _UNFINISHED:
        return kept
    failure = ResponseFailure(code="server_error", message=_STOPPED, type="api_error")
    return msgspec.structs.replace(kept, reply=_encode({**_any(kept.reply), "status": "failed", "error": failure}))


def _missing(id: str) -> ApiError:
    return ApiError(404, f"Response with id '{id}' not found.", kind="invalid_request_error", param="id")
