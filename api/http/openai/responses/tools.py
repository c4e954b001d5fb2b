"""Reads the tools of a response, which may be grouped in namespaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from corral.api.http.chat_tools import read_tools
from corral.api.http.errors import ApiError
from corral.api.http.model_body import MOST_TOOLS, require_few
from corral.core.requests.messages import Tool

__all__ = ("ResponseTools",)

_WEB_SEARCH = ("web_search", "web_search_preview")


class ResponseTools:
    """The functions of a request. Those of a namespace are named ``NAMESPACE.FUNCTION`` for the model.

    Raises `ApiError` 400 for a tool of another type, which nothing here could call.
    """

    def __init__(self, given: Iterable[Mapping[str, Any]]) -> None:
        self._spaces: dict[str, tuple[str, str]] = {}
        self.tools: tuple[Tool, ...] = read_tools(list(self._functions(given)))
        require_few("tools", self.tools, MOST_TOOLS)

    def named(self, called: str) -> tuple[str, str | None]:
        """The name of a function that the model has called, and its namespace if it has one."""
        return self._spaces.get(called, (called, None))

    def _functions(self, given: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for place, tool in enumerate(given):
            kind = tool.get("type")
            if isinstance(kind, str) and kind.startswith(_WEB_SEARCH):
                text = f'tools[{place}]: the type "{kind}" is not supported here yet; a function may search the web '
                raise ApiError(400, text + "through /api/web_search (see the setting web.search)", param="tools")
            if kind != "namespace":
                yield tool
                continue
            space, inner = tool.get("name"), tool.get("tools")
            if not isinstance(space, str) or not space or not isinstance(inner, list):
                raise ApiError(400, f"tools[{place}]: a namespace has a name and a list of tools", param="tools")
            for function in inner:
                name = function.get("name") if isinstance(function, dict) else None
                if not isinstance(name, str) or not name:
                    raise ApiError(400, f"tools[{place}]: a tool of the namespace has no name", param="tools")
                self._spaces[f"{space}.{name}"] = (name, space)
                yield {**function, "name": f"{space}.{name}"}
