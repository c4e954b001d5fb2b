"""Anthropic's tools that search the web and fetch its pages, as a request asks for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from corral.api.http.errors import ApiError
from corral.core.generation.web_fetch import WEB_FETCH, WebFetch, with_web_fetch
from corral.core.generation.web_search import WEB_SEARCH, WebSearch, with_web_search
from corral.core.requests.calls import ChatCall

__all__ = ("WebTools", "read_web_tools", "web_tool_of")

_TYPE = re.compile(r"(web_search|web_fetch)_\d{8}")
_CHARS_PER_TOKEN = 4


class WebTools(msgspec.Struct, frozen=True, kw_only=True):
    """How the model of a request may use the web; None for what it may not."""

    search: WebSearch | None = None
    fetch: WebFetch | None = None

    def __bool__(self) -> bool:
        return self.search is not None or self.fetch is not None

    def offered(self, call: ChatCall) -> ChatCall:
        """The call as the model gets it."""
        call = call if self.search is None else with_web_search(call, self.search)
        return call if self.fetch is None else with_web_fetch(call, self.fetch)


def web_tool_of(tool: Mapping[str, Any]) -> str | None:
    """The name of the web's tool that a request describes, of any version; None for all other tools."""
    kind = tool.get("type")
    found = _TYPE.fullmatch(kind) if isinstance(kind, str) else None
    return None if found is None else found[1]


def read_web_tools(tools: Sequence[Mapping[str, Any]]) -> WebTools:
    """How the model may use the web. Raises `ApiError` 400."""
    found: dict[str, dict[str, Any]] = {}
    for place, tool in enumerate(tools):
        name, at = web_tool_of(tool), f"tools[{place}]"
        if name is None:
            continue
        if name in found:
            raise ApiError(400, f"{at}: the tool {json.dumps(tool['type'])} is there twice", param=at)
        if tool.get("name") != name:
            raise ApiError(400, f'{at}: the name of {json.dumps(tool["type"])} is "{name}"', param=at)
        allowed, blocked = _domains(tool, "allowed_domains", at), _domains(tool, "blocked_domains", at)
        if allowed and blocked:
            raise ApiError(400, f"{at}: allowed_domains and blocked_domains exclude each other; omit one", param=at)
        found[name] = {
            "max_uses": _positive(tool, "max_uses", at),
            "allowed_domains": allowed,
            "blocked_domains": blocked,
            "strict": tool.get("strict") is True,
        }
        if name == WEB_FETCH and (tokens := _positive(tool, "max_content_tokens", at)) is not None:
            found[name]["max_page_chars"] = tokens * _CHARS_PER_TOKEN
    search, fetch = found.get(WEB_SEARCH), found.get(WEB_FETCH)
    return WebTools(
        search=None if search is None else WebSearch(**search), fetch=None if fetch is None else WebFetch(**fetch)
    )


def _positive(tool: Mapping[str, Any], key: str, at: str) -> int | None:
    given = tool.get(key)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ApiError(400, f"{at}.{key} must be a positive integer", param=f"{at}.{key}")
    return given


def _domains(tool: Mapping[str, Any], key: str, at: str) -> tuple[str, ...]:
    given = tool.get(key)
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(one, str) and one.strip() for one in given):
        raise ApiError(400, f"{at}.{key} is not a list of domains", param=f"{at}.{key}")
    return tuple(given)
