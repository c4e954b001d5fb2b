"""The event loop's side of every runner: gives each request an id and a mailbox, and turns outcomes into a stream."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from corral.adapters.runners.mailbox import Mailbox
from corral.core.error_translation import to_error
from corral.core.errors import ErrorInfo, Unsupported
from corral.core.ports.running import ModelInfo, Task
from corral.core.requests.media import features_for
from corral.core.requests.outputs import Delta, Embedded, Finished, Output, Ranked
from corral.core.requests.prompts import MediaPart
from corral.core.requests.requests import ChatRequest, CompletionRequest, EmbedRequest, Request, RerankRequest
from corral.core.stepping.loops import Outcome

__all__ = ("Dispatch",)

_TASKS: dict[type[Request], Task] = {
    CompletionRequest: "completion",
    ChatRequest: "chat",
    EmbedRequest: "embedding",
    RerankRequest: "rerank",
}


class Dispatch:
    """The requests of one running model. Belongs to one event loop."""

    def __init__(self, info: ModelInfo, *, add: Callable[[int, Request], Any], abort: Callable[[int], Any]) -> None:
        self.info = info
        self._add = add
        self._abort = abort
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._mailboxes: dict[int, Mailbox] = {}
        self._failure: ErrorInfo | None = None

    @property
    def alive(self) -> bool:
        return self._failure is None

    def deliver(self, outcomes: Iterable[Outcome]) -> None:
        """Distribute the outcomes of a step. Each reader wakes once, however many it gets."""
        mailboxes = self._mailboxes
        for request_id, item in outcomes:
            mailbox = mailboxes.get(request_id)
            if mailbox is not None:
                mailbox.put(item)

    async def taken(self, request_id: int) -> None:
        """Wait until the request's reader has taken everything delivered so far."""
        mailbox = self._mailboxes.get(request_id)
        if mailbox is not None:
            await mailbox.emptied()

    def fail(self, error: ErrorInfo) -> None:
        """End all current and future requests with this error. Only the first call counts."""
        if self._failure is None:
            self._failure = error
            for mailbox in self._mailboxes.values():
                mailbox.put(error)

    async def run(self, request: Request) -> AsyncGenerator[Output, None]:
        """As `RunningModel.run`."""
        if self._failure is not None:
            raise to_error(self._failure)
        task = _TASKS.get(type(request))
        if task is not None and task not in self.info.tasks:
            raise Unsupported(f"this model does not support {task}; it supports {', '.join(sorted(self.info.tasks))}")
        for feature in sorted(features_for(_files(request)) - self.info.features):
            raise Unsupported(f"this model's engine does not support {feature}")
        request_id = next(self._ids)
        mailbox = self._mailboxes[request_id] = Mailbox(self._loop)
        unfinished = True
        try:
            self._add(request_id, request)
            while unfinished:
                for item in await mailbox.take():
                    if type(item) is Delta:
                        yield item
                    elif isinstance(item, ErrorInfo):
                        unfinished = False
                        raise to_error(item)
                    else:
                        unfinished = not isinstance(item, Finished | Embedded | Ranked)
                        yield item
                        if not unfinished:
                            return  # the model may have died since, which does not concern this request
        finally:
            del self._mailboxes[request_id]
            if unfinished and self._failure is None:
                self._abort(request_id)


def _files(request: Request) -> list[bytes]:
    if isinstance(request, CompletionRequest):
        return [part.data for part in request.prompt if isinstance(part, MediaPart)]
    messages = request.messages if isinstance(request, ChatRequest) else ()
    return [file for message in messages for file in message.images]
