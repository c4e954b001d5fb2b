"""Reads the input of a response: a text or items, in the form in which they are kept, and the messages they mean."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from corral.api.http.chat_messages import Content, arguments_of, read_parts
from corral.api.http.errors import ApiError
from corral.api.http.openai.responses.web_search import found_in
from corral.core.generation.web_search import WEB_SEARCH, problem_text, results_text
from corral.core.requests.messages import Message, ToolCall

__all__ = ("Item", "input_items", "messages_of", "new_id", "search_id")

Item = Mapping[str, Any]
"""An item of an input as JSON has it: a message, a call, a result, or what the model has thought."""

_PREFIXES: Mapping[str, str] = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "web_search_call": "ws",
}
"""The types of items that are understood, and how their ids begin."""


_SEARCH_ID, _CALL_ID = "ws_", "call_"


def search_id(call_id: str) -> str:
    """The id of the item of a search, which the model has called by this id."""
    return _SEARCH_ID + call_id.removeprefix(_CALL_ID)


def new_id(kind: str) -> str:
    """An id for an item of this type."""
    return f"{_PREFIXES[kind]}_{secrets.token_hex(24)}"


def input_items(given: Any) -> list[Item]:
    """The items of an `input`, each with its type, an id and a status, and messages with their content in parts.

    Raises `ApiError` 400, with Ollama's text if it has one.
    """
    if given is None:
        return []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise ApiError(400, "input must be a text or a list of items", param="input")
    return [_item(item, f"input[{place}]") for place, item in enumerate(given)]


def _item(given: Any, place: str) -> Item:
    if not isinstance(given, dict):
        raise ApiError(400, f"{place} is not an object", param=place)
    kind = given.get("type") or ("message" if "role" in given else None)
    if kind is None:
        raise ApiError(400, "input item missing required 'type' field", param=place)
    if not isinstance(kind, str) or kind not in _PREFIXES:
        raise ApiError(400, f'{place}: unknown input item type: "{kind}"', param=place)
    id = given.get("id")
    item = {
        **given,
        "type": kind,
        "id": id if _is_text(id) else new_id(kind),
        "status": given.get("status") or "completed",
    }
    if kind == "message" and isinstance(given.get("content"), str):
        part = {"type": "input_text", "text": given["content"]}
        if given.get("role") == "assistant":
            part = {"type": "output_text", "text": given["content"], "annotations": []}
        item["content"] = [part]
    return item


def messages_of(items: Sequence[Item], own: int) -> tuple[Message, ...]:
    """The conversation. The last `own` items are those of the request, by whose places errors name them.

    What the model thought, said and called in one turn is one message. Raises `ApiError` 400.
    """
    messages: list[Message] = []
    turn = _Turn()
    for place, item in enumerate(items, own - len(items)):
        at = f"input[{place}]"
        kind = item["type"]
        if kind == "reasoning":
            messages += turn.think(_thinking(item))
        elif kind == "function_call":
            if _is_cut(item):
                turn.cut(item)
            else:
                turn.call(_call(item, len(turn.calls), at))
        elif kind == "message" and str(item.get("role")).lower() == "assistant":
            messages += turn.say(read_parts(item.get("content"), at))
        elif kind == "web_search_call":
            turn.search(item)
        else:
            messages += turn.end()
            messages.append(_result(item, at) if kind == "function_call_output" else _message(item, at))
    messages += turn.end()
    return tuple(messages)


class _Turn:
    """What the model has contributed since somebody else did."""

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self._found: list[Message] = []
        self._thinking: str | None = None
        self._content: Content | None = None

    def think(self, text: str) -> list[Message]:
        """The message that ends before it, if any."""
        ended = self.end() if self.calls or self._content is not None else []
        self._thinking = text if self._thinking is None else f"{self._thinking}\n\n{text}"
        return ended

    def say(self, content: Content) -> list[Message]:
        ended = self.end() if self.calls or self._content is not None else []
        self._content = content
        return ended

    def call(self, call: ToolCall) -> None:
        self.calls.append(call)

    def cut(self, item: Item) -> None:
        """A call that the model did not get to make. As text, it neither waits for a result nor is it lost: the model
        may go on with it, and the turns still alternate, as some templates demand.
        """
        text = f"The call of {_name(item) or 'a function'} was cut off and not made: {item['arguments']}"
        said = self._content or Content()
        self._content = Content(f"{said.text}\n\n{text}" if said.text else text, said.images)

    def search(self, item: Item) -> None:
        """A search with what it has found; without that, only the text of the answer tells."""
        found = found_in(item)
        if found is None:
            return
        failed = item.get("status") == "failed"
        id = str(item["id"]).replace(_SEARCH_ID, _CALL_ID, 1)
        action = item.get("action")
        query = action.get("query") if isinstance(action, dict) else None
        self.calls.append(ToolCall(name=WEB_SEARCH, arguments={"query": query or ""}, id=id, index=len(self.calls)))
        text = problem_text("unavailable") if failed else results_text(found)
        self._found.append(Message(role="tool", content=text, tool_name=WEB_SEARCH, tool_call_id=id))

    def end(self) -> list[Message]:
        """The message of the turn, if there was one, and what its searches have found; another turn begins."""
        thinking, content, calls, found = self._thinking, self._content, self.calls, self._found
        self._thinking, self._content, self.calls, self._found = None, None, [], []
        if thinking is None and content is None and not calls:
            return []
        said = content or Content()
        message = Message(
            role="assistant", content=said.text, images=said.images, thinking=thinking or None, tool_calls=tuple(calls)
        )
        return [message, *found]


def _message(item: Item, place: str) -> Message:
    role = item.get("role")
    if not isinstance(role, str) or not role:
        raise ApiError(400, f"{place} has no role", param=place)
    role = role.lower()
    content = read_parts(item.get("content"), place)
    return Message(role="system" if role == "developer" else role, content=content.text, images=content.images)


def _result(item: Item, place: str) -> Message:
    content = read_parts(item.get("output"), place)
    call_id = item.get("call_id")
    return Message(
        role="tool",
        content=content.text,
        images=content.images,
        tool_name=_name(item),
        tool_call_id=call_id if _is_text(call_id) else None,
    )


def _is_cut(item: Item) -> bool:
    """Whether the answer ended within the arguments of a call, so that they are no JSON."""
    if item.get("status") != "incomplete" or not isinstance(item.get("arguments"), str):
        return False
    try:
        arguments_of(item["arguments"])
    except ApiError:
        return True
    return False


def _call(item: Item, index: int, place: str) -> ToolCall:
    name, id = _name(item), item.get("call_id")
    if name is None:
        raise ApiError(400, f"{place} has no name", param=f"{place}.name")
    return ToolCall(
        name=name, arguments=arguments_of(item.get("arguments")), id=id if _is_text(id) else None, index=index
    )


def _name(item: Item) -> str | None:
    """The name of the function as the model knows it; None if there is none."""
    name, space = item.get("name"), item.get("namespace")
    if not _is_text(name):
        return None
    return f"{space}.{name}" if _is_text(space) else name


def _thinking(item: Item) -> str:
    """The text of a reasoning item: its summary, or else what has been thought, wherever that stands."""
    for field in ("summary", "content"):
        parts: Iterable[Any] = item[field] if isinstance(item.get(field), list) else ()
        texts = [part["text"] for part in parts if isinstance(part, dict) and _is_text(part.get("text"))]
        if texts:
            return "\n\n".join(texts)
    encrypted = item.get("encrypted_content")
    return encrypted if isinstance(encrypted, str) else ""


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value)
