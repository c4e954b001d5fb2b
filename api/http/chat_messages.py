"""Reads messages as OpenAI's API has them: contents in parts, images as data URLs, calls of tools and their results."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from corral.api.http.errors import ApiError
from corral.core.malformed import MALFORMED
from corral.core.requests.messages import Message, ToolCall

__all__ = ("Content", "arguments_of", "data_of_url", "media_characters", "read_messages", "read_parts")

_PLACE = "[img]"
_ROLES: Mapping[str, str] = {"developer": "system", "function": "tool"}
_DATA_URL = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp|gif|bmp))?;base64,")
_NO_URLS = "image URLs are not currently supported, please use base64 encoded data instead"

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Content(msgspec.Struct, frozen=True):
    """The text of a message with the places of its images, and the images."""

    text: str = ""
    images: tuple[bytes, ...] = ()


def read_messages(given: Iterable[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The messages in Corral's form. Raises `ApiError` 400 for what is none, with Ollama's text if it has one.

    The role ``developer`` is what newer models of OpenAI call ``system``; ``function`` and ``function_call`` are what
    older clients call ``tool`` and a call without an id.
    """
    return tuple(_message(message, f"messages[{place}]") for place, message in enumerate(given))


def media_characters(value: Any) -> int:
    """The size of the images and sounds in a request, still encoded."""
    if isinstance(value, list):
        return sum(map(media_characters, value))
    if not isinstance(value, dict):
        return 0
    own = (value.get("image_url"), value.get("input_audio"))
    texts = [one for part in own for one in (part.values() if isinstance(part, dict) else (part,))]
    inner = sum(media_characters(value.get(key)) for key in ("content", "output"))
    return inner + sum(len(text) for text in texts if isinstance(text, str))


def _message(given: Mapping[str, Any], place: str) -> Message:
    role = given.get("role")
    if not isinstance(role, str) or not role:
        raise ApiError(400, f"{place} has no role", param=place)
    role = role.lower()
    role = _ROLES.get(role, role)
    calls = _calls(given.get("tool_calls"), place)
    if (call := given.get("function_call")) is not None and not calls:
        calls = (_call({"function": call}, 0, f"{place}.function_call"),)
    said = given.get("reasoning") or given.get("reasoning_content")
    thinking = said if isinstance(said, str) else None
    raw = given.get("content")
    if raw is None and (calls or thinking or given.get("refusal")):
        raw = given.get("refusal") or ""
    content = read_parts(raw, place)
    name, call_id = given.get("name"), given.get("tool_call_id")
    return Message(
        role=role,
        content=content.text,
        images=content.images,
        thinking=thinking,
        tool_calls=calls,
        tool_name=name if isinstance(name, str) and name and role == "tool" else None,
        tool_call_id=call_id if isinstance(call_id, str) and call_id else None,
    )


def read_parts(content: Any, place: str) -> Content:
    """A content that is a text, or a list of parts. Texts of several parts are paragraphs."""
    if isinstance(content, str):
        return Content(content)
    if not isinstance(content, list):
        raise ApiError(400, f"invalid message content type: {_go_type(content)}", param=f"{place}.content")
    texts: list[str] = []
    images: list[bytes] = []
    for number, part in enumerate(content):
        at = f"{place}.content[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text", "output_text", "refusal"):
            text = part.get("refusal" if kind == "refusal" else "text")
            if not isinstance(text, str):
                raise ApiError(400, "invalid message format", param=at)
            texts.append(text)
        elif kind in ("image_url", "input_image"):
            if part.get("file_id") is not None:
                raise ApiError(400, f"{at}: file_id is not supported; send the image as a data URL", param=at)
            images.append(_image(part.get("image_url"), at))
            texts.append(_PLACE)
        elif kind == "input_audio":
            images.append(_audio(part.get("input_audio"), at))
            texts.append(_PLACE)
        elif kind in ("file", "input_file"):
            raise ApiError(400, "file inputs are not currently supported", param=at)
        else:
            raise ApiError(400, "invalid message format", param=at)
    if images and all(text == _PLACE for text in texts[: len(images)]):  # in front of the text, where they go anyway
        return Content("\n\n".join(texts[len(images) :]), tuple(images))
    return Content("\n\n".join(texts), tuple(images))


def data_of_url(url: str) -> bytes:
    """The file in a data URL. Raises `ApiError` 400, also for the URL of a page: nothing is fetched."""
    if url.startswith(("http://", "https://")):
        raise ApiError(400, _NO_URLS)
    head = _DATA_URL.match(url[:64])
    if head is None:
        raise ApiError(400, "invalid image input")
    return _decoded(url[head.end() :])


def _image(given: Any, place: str) -> bytes:
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str):
        raise ApiError(400, "invalid message format", param=place)
    return data_of_url(url)


def _audio(given: Any, place: str) -> bytes:
    data = given.get("data") if isinstance(given, dict) else None
    if not isinstance(data, str):
        raise ApiError(400, "invalid message format", param=place)
    return _decoded(data)


def _decoded(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise ApiError(400, "invalid image input") from None


def _calls(given: Any, place: str) -> tuple[ToolCall, ...]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise ApiError(400, f"{place}.tool_calls is not a list", param=f"{place}.tool_calls")
    return tuple(_call(call, index, f"{place}.tool_calls[{index}]") for index, call in enumerate(given))


def _call(given: Any, index: int, place: str) -> ToolCall:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in (None, "function"):
        raise ApiError(400, f'{place}: the type "{kind}" is not supported; use "function"', param=place)
    function = given.get("function") if isinstance(given, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise ApiError(400, f"{place} has no function with a name", param=place)
    id = given.get("id")
    return ToolCall(
        name=name,
        arguments=arguments_of(function.get("arguments")),
        id=id if isinstance(id, str) else None,
        index=index,
    )


def arguments_of(given: Any) -> Mapping[str, Any]:
    """The arguments of a call: JSON in a string; nothing at all means none. Raises `ApiError` 400."""
    if given in (None, ""):
        return {}
    if isinstance(given, dict):
        return given
    try:
        return _decode(given)
    except (*MALFORMED, TypeError, RecursionError):
        raise ApiError(400, "invalid tool call arguments") from None


def _go_type(value: Any) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "bool"
    return "float64" if isinstance(value, int | float) else "map[string]interface {}"
