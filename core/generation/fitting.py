"""Makes a chat fit into the context of its model: the oldest messages are left out, as few as possible.

Nothing is counted before the model has refused the whole prompt. Then a binary search finds the cut: the one that
dropping messages from the front, one at a time, would end with. Many templates refuse conversations that do not begin
with the user: if one complains, only such cuts are tried. An answer that cannot shift the context gets room.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import msgspec

from corral.core.errors import InvalidRequest, PromptTooLong, TemplateFailed
from corral.core.generation.early_length_check import most_tokens_of_prompt
from corral.core.generation.prompting import rendered_chat
from corral.core.generation.rendering import FormatInThreads
from corral.core.ports.chat import RenderedChat
from corral.core.ports.running import RunningModel
from corral.core.requests.outputs import Finished, Output
from corral.core.requests.prompts import MediaPart
from corral.core.requests.requests import ChatRequest

__all__ = ("FittingChat", "fitted")

_COMPLAINTS = (InvalidRequest, TemplateFailed)
_IMAGE_TOKENS = 768
"""What an image counts, as in Ollama: only its engine knows how many tokens it takes."""


class FittingChat:
    """A chat, rendered with as many messages as fit. System messages and the last message are never left out.

    `dropped` is how many messages the last rendering left out.
    """

    def __init__(self, request: ChatRequest, model: RunningModel, chat_format: FormatInThreads) -> None:
        self._request = request
        self._model = model
        self._format = chat_format
        self._most = most_tokens_of_prompt(model.info, request.context)
        self._room = 0 if request.context.shift and "shift" in model.info.features else _room(request, self._most or 0)
        self._droppable: list[int] = []
        if request.context.truncate and self._most is not None and "tokenize" in model.info.features:
            earlier = enumerate(request.messages[:-1])
            self._droppable = [place for place, message in earlier if message.role != "system"]
        self.dropped = 0

    @property
    def can_shrink(self) -> bool:
        """Whether more messages may be left out, if this helps."""
        return self.dropped < len(self._droppable)

    async def whole(self) -> RenderedChat:
        """All messages, except those that cannot fit because of their size alone. Raises as `rendered_chat`."""
        certain = self._certainly_dropped()
        try:
            rendered = await self._rendered(certain)
        except _COMPLAINTS:
            cuts = self._cuts_before_users(certain)
            if not certain or not cuts:
                raise
            certain = cuts[0]
            rendered = await self._rendered(certain)
        self.dropped = certain
        return rendered

    async def fitting(self) -> RenderedChat:
        """What fits, counted without running anything."""
        rendered = await self.whole()
        return await self.shortened() if self.can_shrink and not await self._fits(rendered, room=0) else rendered

    async def shortened(self) -> RenderedChat:
        """As many of the newest messages as fit, or the last one alone. For a chat that does not fit as a whole."""
        try:
            return await self._newest(range(self.dropped + 1, len(self._droppable) + 1))
        except _COMPLAINTS:
            return await self._newest(self._cuts_before_users(self.dropped + 1) or [self.dropped])

    async def _newest(self, cuts: Sequence[int]) -> RenderedChat:
        """The chat after the first of these cuts that makes it fit, or after the last one."""
        low, high = 0, len(cuts) - 1
        found: RenderedChat | None = None
        while low < high:
            middle = (low + high) // 2
            rendered = await self._rendered(cuts[middle])
            if await self._fits(rendered, self._room):
                high, found = middle, rendered
            else:
                low = middle + 1
        found = found or await self._rendered(cuts[high])
        self.dropped = cuts[high]
        return found

    def _cuts_before_users(self, least: int) -> list[int]:
        """How many messages may be left out, `least` or more, so that the user's is the first one that is not."""
        messages = self._request.messages
        firsts = [*self._droppable, len(messages) - 1]
        return [cut for cut in range(least, len(firsts)) if messages[firsts[cut]].role == "user"]

    def _certainly_dropped(self) -> int:
        longest = self._model.info.longest_token_bytes
        if not self._droppable or self._most is None or longest is None:
            return 0
        sizes = [
            len(message.content) if message.role in ("system", "user") else 0 for message in self._request.messages
        ]
        excess = sum(sizes) - self._most * longest
        count = 0
        while excess > 0 and count < len(self._droppable):
            excess -= sizes[self._droppable[count]]
            count += 1
        return count

    async def _rendered(self, dropped: int) -> RenderedChat:
        request = self._request
        if dropped:
            left_out = set(self._droppable[:dropped])
            kept = tuple(message for place, message in enumerate(request.messages) if place not in left_out)
            request = msgspec.structs.replace(request, messages=kept)
        return await rendered_chat(request, self._model.info, self._format)

    async def _fits(self, rendered: RenderedChat, room: int) -> bool:
        assert self._most is not None
        text = tuple(part for part in rendered.prompt if not isinstance(part, MediaPart))
        most = self._most - room - _IMAGE_TOKENS * (len(rendered.prompt) - len(text))
        if most < 0:
            return False
        [ids] = await self._model.tokenize([text], most=most, cut=True)
        return len(ids) <= most


def _room(request: ChatRequest, most: int) -> int:
    """How many tokens of a context a cut prompt leaves to an answer that ends when it is full."""
    wanted = request.sampling.num_predict
    return most // 4 if wanted is None or wanted < 0 else min(wanted, most // 4)


async def fitted(
    chat: FittingChat,
    outputs: AsyncGenerator[Output, None],
    again: Callable[[RenderedChat], AsyncGenerator[Output, None]],
) -> AsyncGenerator[Output, None]:
    """The `outputs` of the whole chat; if it turns out to be too long, those that `again` returns for a shorter one."""
    begun = False
    try:
        async with aclosing(outputs):
            async for output in outputs:
                begun = True
                yield _counted(output, chat)
            return
    except PromptTooLong:
        if begun or not chat.can_shrink:
            raise
    async with aclosing(again(await chat.shortened())) as outputs:
        async for output in outputs:
            yield _counted(output, chat)


def _counted(output: Output, chat: FittingChat) -> Output:
    if isinstance(output, Finished) and chat.dropped:
        return msgspec.structs.replace(output, dropped_messages=chat.dropped)
    return output
