"""Tokens of texts and chats, as methods of `AsyncCorral`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

from corral.api.library.arguments import checked, checked_ids
from corral.api.library.messages import Messages, spoken
from corral.api.library.options import AnswerOptions, RequestOptions
from corral.api.library.tools import Tools, to_tools
from corral.core.errors import InvalidRequest
from corral.core.requests.calls import ChatCall
from corral.core.requests.think_values import check_think
from corral.core.requests.tokens import DetokenizeCall, TokenizeCall, Tokens
from corral.core.runtime import Runtime

__all__ = ("AsyncTokens", "TokenizeOptions")


class _OfChats(TypedDict, total=False):
    system: str | None
    tools: Tools | None
    think: bool | str | None


class TokenizeOptions(_OfChats, RequestOptions, total=False):
    """The keyword arguments of `tokenize`: `system`, `tools` and `think` are those of a chat.

    For a text, `add_special` adds the model's own tokens around it (BOS), and without `parse_special`, control tokens
    in it are plain text. `with_pieces`: also the bytes of each token.
    """

    add_special: bool
    parse_special: bool
    with_pieces: bool


class AsyncTokens(ABC):
    """A base of `AsyncCorral`."""

    @abstractmethod
    async def runtime(self) -> Runtime: ...

    @abstractmethod
    def _request(
        self, method: str, model: str, how: RequestOptions | AnswerOptions, known: type[RequestOptions]
    ) -> dict[str, Any]: ...

    async def tokenize(self, model: str, inputs: Messages, **how: Unpack[TokenizeOptions]) -> Tokens:
        """The tokens of a text, or of the whole prompt that a list of messages becomes, and the text of that prompt.

        Weights are not loaded if the model's vocabulary is enough.
        """
        request = self._request("tokenize", model, how, TokenizeOptions)
        pieces = checked("with_pieces", how.get("with_pieces", False), bool)
        add_special = checked("add_special", how.get("add_special", False), bool)
        parse_special = checked("parse_special", how.get("parse_special", True), bool)
        if isinstance(inputs, str):
            for name in _OfChats.__annotations__:
                if how.get(name) is not None:
                    raise InvalidRequest(f"{name}: a text has none", 'for a chat, pass messages: [{"role": "user", …}]')
            text = TokenizeCall(
                text=inputs, add_special=add_special, parse_special=parse_special, with_pieces=pieces, **request
            )
            return await (await self.runtime()).inference.tokens.of_text(text)
        if "add_special" in how or "parse_special" in how:
            raise InvalidRequest("add_special and parse_special are for texts", "omit them: a chat goes as it is sent")
        messages = await spoken(inputs, checked("system", how.get("system"), str, None))
        tools, _ = to_tools(how.get("tools"))
        chat = ChatCall(messages=messages, tools=tools, think=check_think(how.get("think")), **request)
        return await (await self.runtime()).inference.tokens.of_chat(chat, with_pieces=pieces)

    async def detokenize(self, model: str, ids: Sequence[int], **how: Unpack[RequestOptions]) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD. Raises `InvalidRequest` for an id that the
        model does not have.
        """
        request = self._request("detokenize", model, how, RequestOptions)
        call = DetokenizeCall(ids=checked_ids("ids", ids), **request)
        return (await (await self.runtime()).inference.tokens.text_of(call)).text
