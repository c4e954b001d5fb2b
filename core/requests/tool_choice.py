"""`tool_choice`: whether a model may call tools, has to, or has to call a certain one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from corral.core.errors import InvalidRequest
from corral.core.values import Value
from corral.core.wording.clipping import clipped

__all__ = ("ANY_CHOICE", "ToolChoice", "read_tool_choice")


class ToolChoice(Value, frozen=True, kw_only=True):
    """``auto``: the model decides; ``none``: no call; ``required``: at least one call, of the tool `name` if given."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


ANY_CHOICE = ToolChoice()
_BY_MODE: Mapping[str, ToolChoice] = {
    "": ANY_CHOICE,
    "auto": ANY_CHOICE,
    "none": ToolChoice(mode="none"),
    "required": ToolChoice(mode="required"),
}
_EXPECTED = '"auto", "none", "required" or {"type": "function", "function": {"name": "…"}}'


def read_tool_choice(value: Any) -> ToolChoice:
    """The choice, in the form of OpenAI's API; None means ``auto``. Raises `InvalidRequest` for anything else."""
    if value is None or isinstance(value, ToolChoice):
        return value or ANY_CHOICE
    if isinstance(value, str) and value in _BY_MODE:
        return _BY_MODE[value]
    if isinstance(value, Mapping) and value.get("type", "function") == "function":
        function = value.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str) and name:
            return ToolChoice(mode="required", name=name)
    try:
        shown = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        shown = repr(value)
    raise InvalidRequest(f"invalid tool_choice: {clipped(shown, 200)}; expected {_EXPECTED}")
