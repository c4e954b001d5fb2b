"""Reads the tools of a response, which may be grouped in namespaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from corral.api.http.chat_tools import chosen_tools, read_tools
from corral.api.http.errors import ApiError
from corral.api.http.model_body import MOST_TOOLS, require_few
from corral.api.http.openai.responses.web_search import is_web_search, read_web_search
from corral.core.generation.web_search import WEB_SEARCH

__all__ = ("ResponseTools",)


class ResponseTools:
    """The tools of a request. Functions of a namespace are named ``NAMESPACE.FUNCTION`` for the model.

    `tools` are those that the client calls, `search` says how the model may search the web, if it may. `choice` is
    which of them may or must be called. Raises `ApiError` 400, also for tools of other types, which nothing here could
    call, and `InvalidRequest` for a choice that is none.
    """

    def __init__(self, given: Sequence[Mapping[str, Any]], choice: Any = None, most_calls: int | None = None) -> None:
        self._spaces: dict[str, tuple[str, str]] = {}
        functions = read_tools(list(self._functions(given)))
        require_few("tools", functions, MOST_TOOLS)
        self.search = read_web_search(given, most_calls)
        if self.search is not None and is_web_search(choice):
            choice = {"type": "function", "name": WEB_SEARCH}
        elif isinstance(choice, dict) and choice.get("type") == "allowed_tools":
            allowed = choice.get("tools")
            if not isinstance(allowed, list) or not any(map(is_web_search, allowed)):
                self.search = None
        self.tools, self.choice = chosen_tools(functions, choice)

    def named(self, called: str) -> tuple[str, str | None]:
        """The name of a function that the model has called, and its namespace if it has one."""
        return self._spaces.get(called, (called, None))

    def _functions(self, given: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for place, tool in enumerate(given):
            if is_web_search(tool):
                continue
            if tool.get("type") != "namespace":
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
