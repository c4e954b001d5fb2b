"""The variables with which chat templates in Jinja let thinking be switched on or off, made harder, or limited.

There is no standard: ``enable_thinking`` is Qwen's, GLM's and SmolLM3's, ``thinking`` DeepSeek's and Granite's,
``reasoning_effort`` gpt-oss's and Mistral's, ``thinking_budget`` Seed-OSS's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

__all__ = ("thinking_variables",)

_SWITCHES = ("enable_thinking", "thinking")
_NO_EFFORT, _FULL_EFFORT = "none", "high"


def thinking_variables(
    known: Collection[str], compared: Collection[str], think: bool | str | None, budget: int | None
) -> dict[str, Any]:
    """The values of those variables that the template knows; the others stay undefined, as does what is not stated.

    `known` are the names that the template mentions, `compared` the texts that it compares values with.
    """
    if think is None:
        return {}
    variables: dict[str, Any] = {name: bool(think) for name in _SWITCHES if name in known}
    if "reasoning_effort" in known and (effort := _effort(compared, think, only_switch=not variables)):
        variables["reasoning_effort"] = effort
    if "thinking_budget" in known and (budget is not None or not think):
        variables["thinking_budget"] = budget if think else 0
    return variables


def _effort(compared: Collection[str], think: bool | str, *, only_switch: bool) -> str | None:
    """The template's default unless a level is stated, or this is how the template switches thinking on and off."""
    if isinstance(think, str):
        return think if think != "max" or think in compared else _FULL_EFFORT
    if only_switch and _NO_EFFORT in compared:
        return _FULL_EFFORT if think else _NO_EFFORT
    return None
