"""Reads the messages of a request: contents in blocks, images, calls of tools and their results, earlier thinking."""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from corral.api.http.anthropic.web_blocks import read_page, read_results
from corral.api.http.errors import ApiError
from corral.core.generation.web_fetch import WEB_FETCH
from corral.core.generation.web_search import WEB_SEARCH
from corral.core.requests.messages import Message, ToolCall

__all__ = ("media_characters", "read_messages", "read_system")

_PLACE = "[img]"
_ROLES = ("user", "assistant", "system")
_PARAGRAPH = "\n\n"


def read_system(given: Any) -> tuple[Message, ...]:
    """The system prompt, which is a text or a list of text blocks, as a message; nothing if it is empty."""
    text = "" if given is None else _texts(given, "system")
    return (Message(role="system", content=text),) if text else ()


def read_messages(given: Iterable[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The messages in Corral's form. Raises `ApiError` 400 for what is none.

    Results of tools come before the text beside them. Consecutive messages of the user are one turn, and so are those
    of the assistant.
    """
    messages: list[Message] = []
    names: dict[str, str] = {}
    for place, message in enumerate(given):
        role, at = message.get("role"), f"messages[{place}]"
        if role not in _ROLES:
            raise ApiError(400, f'{at}: unexpected role {json.dumps(role)}; use "user" or "assistant"', param=at)
        read = _Turn(str(role), at, names)
        read.add(message.get("content"))
        for turn in read.messages():
            _append(messages, turn)
    return tuple(messages)


def media_characters(value: Any) -> int:
    """The size of the images in a request, still encoded."""
    if isinstance(value, list):
        return sum(map(media_characters, value))
    if not isinstance(value, dict):
        return 0
    source = value.get("source")
    data = source.get("data") if isinstance(source, dict) else None
    return media_characters(value.get("content")) + (len(data) if isinstance(data, str) else 0)


def _append(messages: list[Message], turn: Message) -> None:
    last = messages[-1] if messages else None
    if last is None or last.role != turn.role or turn.role == "tool" or last.tool_calls:
        messages.append(turn)
        return
    messages[-1] = msgspec.structs.replace(
        last,
        content=_PARAGRAPH.join(text for text in (last.content, turn.content) if text),
        images=(*last.images, *turn.images),
        thinking=_PARAGRAPH.join(text for text in (last.thinking, turn.thinking) if text) or None,
        tool_calls=turn.tool_calls,
    )


class _Turn:
    """One message while its blocks are read. `names` are the tools' names by the ids of their calls."""

    def __init__(self, role: str, at: str, names: dict[str, str]) -> None:
        self._role = role
        self._at = at
        self._names = names
        self._before: list[Message] = []
        self._clear()

    def _clear(self) -> None:
        self._text: list[str] = []
        self._images: list[bytes] = []
        self._thinking: list[str] = []
        self._calls: list[ToolCall] = []

    def add(self, content: Any) -> None:
        if isinstance(content, str):
            self._text.append(content)
            return
        if not isinstance(content, list):
            raise ApiError(400, f"{self._at}: content is neither a text nor a list of blocks", param=self._at)
        for number, block in enumerate(content):
            at = f"{self._at}.content[{number}]"
            kind = block.get("type") if isinstance(block, dict) else None
            reader = _READERS.get(kind) if isinstance(kind, str) else None
            if reader is None:
                raise ApiError(400, f"{at}: a block of the type {json.dumps(kind)} is not supported", param=at)
            reader(self, block, at)

    def messages(self) -> list[Message]:
        own = Message(
            role=self._role,
            content=_joined(self._text, len(self._images)),
            images=tuple(self._images),
            thinking=_PARAGRAPH.join(self._thinking) or None,
            tool_calls=tuple(self._calls),
        )
        empty = not (own.content or own.images or own.thinking or own.tool_calls)
        return self._before if empty and self._before else [*self._before, own]

    # ── Blocks ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _add_text(self, block: Mapping[str, Any], at: str) -> None:
        self._text.append(_string(block, "text", at))

    def _add_image(self, block: Mapping[str, Any], at: str) -> None:
        self._images.append(_image(block, at))
        self._text.append(_PLACE)

    def _add_document(self, block: Mapping[str, Any], at: str) -> None:
        self._text.append(_document(block, at))

    def _add_search_result(self, block: Mapping[str, Any], at: str) -> None:
        self._text.append(_search_result(block, at))

    def _add_thinking(self, block: Mapping[str, Any], at: str) -> None:
        self._thinking.append(_string(block, "thinking", at))

    def _add_nothing(self, block: Mapping[str, Any], at: str) -> None:
        """Thinking that only its author can read."""

    def _add_call(self, block: Mapping[str, Any], at: str) -> None:
        call_id, name, given = block.get("id"), block.get("name"), block.get("input")
        if not isinstance(call_id, str) or not call_id:
            raise ApiError(400, f"{block['type']} block missing required 'id' field", param=at)
        if not isinstance(name, str) or not name:
            raise ApiError(400, f"{block['type']} block missing required 'name' field", param=at)
        if not isinstance(given, dict | None):
            raise ApiError(400, f"{at}: input is not an object", param=at)
        self._names[call_id] = name
        self._calls.append(ToolCall(name=name, arguments=given or {}, id=call_id, index=len(self._calls)))

    def _add_result(self, block: Mapping[str, Any], at: str) -> None:
        call_id = _string(block, "tool_use_id", at)
        text, images = _result(block.get("content"), at)
        if block.get("is_error") is True:
            text = f"Error: {text}"
        self._before.append(
            Message(
                role="tool",
                content=text,
                images=images,
                tool_name=self._names.get(call_id),
                tool_call_id=call_id,
            )
        )

    def _add_searched(self, block: Mapping[str, Any], at: str) -> None:
        """What the server has found in the web, within the turn of the assistant: what it said before comes first."""
        before, self._before = self._before, []
        said = self.messages()
        self._clear()
        self._before = [*before, *said, _found(block, at)]


def _texts(given: Any, at: str) -> str:
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise ApiError(400, f"{at} is neither a text nor a list of text blocks", param=at)
    texts = []
    for number, block in enumerate(given):
        place = f"{at}[{number}]"
        if not isinstance(block, dict) or block.get("type") != "text":
            raise ApiError(400, f"{place} is not a text block", param=place)
        texts.append(_string(block, "text", place))
    return _PARAGRAPH.join(texts)


def _result(content: Any, at: str) -> tuple[str, tuple[bytes, ...]]:
    """What a tool has answered: nothing, a text, or blocks."""
    if content is None:
        return "", ()
    if isinstance(content, str):
        return content, ()
    turn = _Turn("tool", at, {})
    turn.add(content)
    if len(read := turn.messages()) != 1 or read[0].tool_calls or read[0].thinking:
        raise ApiError(400, f"{at}: the content of a tool_result has other blocks than text and images", param=at)
    return read[0].content, read[0].images


def _found(block: Mapping[str, Any], at: str) -> Message:
    content, call_id = block.get("content"), _string(block, "tool_use_id", at)
    if block["type"] == "web_fetch_tool_result":
        return Message(role="tool", content=read_page(content), tool_name=WEB_FETCH, tool_call_id=call_id)
    return Message(role="tool", content=read_results(content), tool_name=WEB_SEARCH, tool_call_id=call_id)


def _document(block: Mapping[str, Any], at: str) -> str:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if isinstance(source, dict) and kind == "text":
        text = _string(source, "data", at)
    elif isinstance(source, dict) and kind == "content":
        text, images = _result(source.get("content"), at)
        if images:
            raise ApiError(400, f"{at}: images in documents are not supported; send them beside it", param=at)
    else:
        raise ApiError(400, f"{at}: documents of the type {json.dumps(kind)} are not supported; send text", param=at)
    about = [block[key] for key in ("title", "context") if isinstance(block.get(key), str) and block[key]]
    return "\n".join([*about, text])


def _search_result(block: Mapping[str, Any], at: str) -> str:
    about = [block[key] for key in ("title", "source") if isinstance(block.get(key), str) and block[key]]
    return "\n".join([*about, _texts(block.get("content"), at)])


def _image(block: Mapping[str, Any], at: str) -> bytes:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if not isinstance(source, dict) or kind != "base64":
        raise ApiError(400, f"invalid image source type: {kind}. Only base64 images are supported.", param=at)
    try:
        return binascii.a2b_base64(_string(source, "data", at), strict_mode=True)
    except ValueError:
        raise ApiError(400, f"{at}: the image is not base64", param=at) from None


def _joined(texts: list[str], images: int) -> str:
    """The texts as paragraphs. Images that come first need no place in the text: that is where they go anyway."""
    if images and all(text == _PLACE for text in texts[:images]):
        texts = texts[images:]
    return _PARAGRAPH.join(texts)


def _string(block: Mapping[str, Any], key: str, at: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise ApiError(400, f"{at}: {key} is missing or not a text", param=at)
    return value


_READERS = {
    "text": _Turn._add_text,
    "image": _Turn._add_image,
    "document": _Turn._add_document,
    "search_result": _Turn._add_search_result,
    "thinking": _Turn._add_thinking,
    "redacted_thinking": _Turn._add_nothing,
    "tool_use": _Turn._add_call,
    "server_tool_use": _Turn._add_call,
    "tool_result": _Turn._add_result,
    "web_search_tool_result": _Turn._add_searched,
    "web_fetch_tool_result": _Turn._add_searched,
}
