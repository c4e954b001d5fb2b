"""The wire structs of ``/api/tokenize`` and ``/api/detokenize``, which are Corral's additions."""

from __future__ import annotations

from typing import Any, ClassVar

from corral.api.http.errors import ApiError
from corral.api.http.model_body import MOST_MESSAGES, MOST_TOOLS, ModelBody, require_few
from corral.api.http.ollama.bodies import GoTypes, MessageBody, ToolBody
from corral.api.http.ollama.replies import Reply
from corral.api.http.token_pieces import Piece

__all__ = ("DetokenizeBody", "DetokenizeReply", "TokenizeBody", "TokenizeReply")


class TokenizeBody(ModelBody, frozen=True, kw_only=True):
    """``POST /api/tokenize``: a text in `content`, or by its other name in `prompt`; or the `messages` of a chat, with
    its `tools`.
    """

    go_name: ClassVar[str] = "TokenizeRequest"
    go_types: ClassVar[GoTypes] = {"messages": ("[]api.Message", "api.Alias"), "tools": ("api.Tools", "api.Tool")}

    content: str | None = None
    prompt: str | None = None
    messages: tuple[MessageBody, ...] | None = None
    tools: tuple[ToolBody, ...] = ()
    think: Any = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False
    with_prompt: bool = False
    engine: str = ""

    def check(self) -> None:
        super().check()
        given = [name for name in ("content", "prompt", "messages") if getattr(self, name) is not None]
        if not given:
            raise ApiError(400, "content or messages is required")
        if len(given) > 1:
            raise ApiError(400, f"{given[0]} and {given[1]} exclude each other: omit one of them")
        require_few("messages", self.messages or (), MOST_MESSAGES)
        require_few("tools", self.tools, MOST_TOOLS)


class DetokenizeBody(ModelBody, frozen=True, kw_only=True):
    """``POST /api/detokenize``."""

    go_name: ClassVar[str] = "DetokenizeRequest"

    tokens: tuple[int, ...] = ()
    with_pieces: bool = False
    engine: str = ""


class TokenizeReply(Reply, frozen=True, kw_only=True):
    """`prompt` is the text whose tokens these are, on request, and so are the `pieces` of its tokens."""

    model: str
    tokens: tuple[int, ...]
    count: int
    prompt: str | None = None
    pieces: list[Piece] | None = None


class DetokenizeReply(Reply, frozen=True, kw_only=True):
    """In `content`, bytes that are not UTF-8 are U+FFFD; `pieces` have them as they are, on request."""

    model: str
    content: str
    pieces: list[Piece] | None = None
