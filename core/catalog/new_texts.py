"""Puts the texts and parameters of a `CreateCall` into a model, by Ollama's rules."""

from __future__ import annotations

from typing import Any

import msgspec

from corral.core.catalog.create_calls import CreateCall
from corral.core.errors import InvalidOption, InvalidRequest
from corral.core.go.templates.chat_templates import parse_chat_template
from corral.core.go.templates.parser import TemplateSyntaxError
from corral.core.models.model import Model, TemplateText
from corral.core.requests.options import parse_options

__all__ = ("with_texts",)


def with_texts(model: Model, call: CreateCall) -> Model:
    """Parameters are merged (null removes one), licences appended, all else is replaced if the call has it.

    Raises `InvalidRequest` for a template that does not compile, and for parameters of the wrong type.
    """
    changes: dict[str, Any] = {}
    if call.template:
        changes["template"] = _template(call.template)
    if call.parameters:
        _check_parameters(call)
        merged = {**model.parameters, **call.parameters}
        changes["parameters"] = {name: value for name, value in merged.items() if value is not None}
    if call.licenses:
        # Each once: what `show` prints for a model names the model, and its licences.
        changes["licenses"] = tuple(dict.fromkeys((*model.licenses, *call.licenses)))
    given = {
        "system": call.system,
        "messages": call.messages,
        "renderer": call.renderer,
        "parser": call.parser,
        "requires": call.requires,
    }
    return msgspec.structs.replace(model, **changes, **{field: value for field, value in given.items() if value})


def _template(text: str) -> TemplateText:
    try:
        parse_chat_template(text)
    except TemplateSyntaxError as error:
        raise InvalidRequest(f"template error: {error}") from error
    return TemplateText(kind="go", text=text)


def _check_parameters(call: CreateCall) -> None:
    """Ollama stores any value, and fails each request to the model."""
    try:
        parse_options(call.parameters)
    except InvalidOption as error:
        raise InvalidRequest(error.message, error.remedy) from error
