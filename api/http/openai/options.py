"""What the fields of a request mean for Corral's options: sampling, limits, thinking, formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corral.api.http.errors import ApiError
from corral.api.http.openai.bodies import AnswerBody
from corral.core.requests.answer_format import read_format
from corral.core.requests.requests import Constraint

__all__ = ("format_of", "options_of", "think_of", "with_defaults")

_EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}
_GRAMMARS = ("gbnf", "lark", "regex", "choice")


def options_of(body: AnswerBody, max_tokens: int | None) -> dict[str, Any]:
    """The options of the request. Like Ollama, this API does not take temperature and top_p from the model: without
    them, both are 1. Fields of the request come before its `options`.
    """
    own = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "frequency_penalty": body.frequency_penalty,
        "presence_penalty": body.presence_penalty,
        "seed": body.seed,
        "num_predict": max_tokens,
        "stop": stop_of(body.stop),
        "logit_bias": body.logit_bias or None,
    }
    return with_defaults(body.options, own)


def with_defaults(options: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request whose fields are `own`, None for those that it does not have; they come first."""
    return {"temperature": 1.0, "top_p": 1.0, **options, **{k: v for k, v in own.items() if v is not None}}


def stop_of(value: Any) -> list[str] | None:
    """The stop strings. Raises `ApiError` 400 for anything but a text or a list of texts."""
    if value is None:
        return None
    if isinstance(value, str):
        return [value]
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str):
            raise ApiError(400, f"invalid type for 'stop' field: {type(item).__name__}", param="stop")
    return list(value)


def think_of(*efforts: Any, param: str = "reasoning_effort") -> bool | str | None:
    """How hard the model thinks; the first effort that is stated counts. Raises `ApiError` 400 for an unknown one."""
    stated = next((effort for effort in efforts if effort is not None), None)
    if stated is None:
        return None
    if not isinstance(stated, str) or stated not in _EFFORTS:
        known = ", ".join(f'"{name}"' for name in _EFFORTS)
        raise ApiError(400, f'invalid reasoning value: "{stated}" (must be {known})', param=param)
    return _EFFORTS[stated]


def format_of(given: Any, param: str = "response_format") -> Constraint | None:
    """What the answer must follow: OpenAI's formats, and Corral's grammars in the form of Ollama's `format`.

    The schema is in ``json_schema``, or as in responses beside the type. Raises `ApiError` 400 and what `read_format`
    raises.
    """
    if given is None:
        return None
    if not isinstance(given, dict):
        raise ApiError(400, f"{param} must be an object", param=param)
    kind = given.get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return read_format("json")
    if kind in _GRAMMARS:
        return read_format(given)
    if kind != "json_schema":
        raise ApiError(
            400, f'{param}: the type "{kind}" is not supported; use "text", "json_object" or "json_schema"', param=param
        )
    inner = given.get("json_schema", given)
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise ApiError(400, f"{param}: json_schema has no schema", param=param)
    return read_format(schema)
