"""Grammars of answers with tool calls, in llguidance's dialect of Lark, for formats of tool calls to put together.

Syntax: llguidance's ``docs/syntax.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ("call_list", "calls_after", "json_text", "literal", "spelled")

_MORE_CALLS = "{0,3}"
"""How many calls may follow the first one, if a call is required: small models repeat themselves without end."""


def literal(text: str) -> str:
    """The text as a terminal. It must not be empty."""
    return json.dumps(text, ensure_ascii=False)


def spelled(text: str, token: str) -> str:
    """The text as terminals, of which those that are `token`, a part of it, stand alone: it may be a control token."""
    parts = text.split(token)
    between = f" {literal(token)} "
    return between.join(literal(part) if part else "" for part in parts).strip()


def json_text(schema: Mapping[str, Any]) -> str:
    """A rule's part that matches the JSON texts that fit the schema."""
    return f"%json {json.dumps(schema)}"


def call_list(separator: str, *, required: bool, one: str = "one") -> str:
    """A rule's part that matches one or more calls, each the rule `one`, with the text `separator` between them. With
    `required`, they are a few.
    """
    join = f"{literal(separator)} " if separator else ""
    return f"{one} ({join}{one}){_MORE_CALLS if required else '*'}"


def calls_after(opening: str, call: str, *, required: bool, between: str = "", lists: bool = False) -> str:
    """The grammar of answers in which `opening` stands before each call.

    `call` is the definition of the rule ``call``, which begins after `opening`, and of the rules that it uses. With
    `required`, an answer is nothing but a few calls, with the text `between` them; otherwise any text may surround
    them. `lists`: the rule ``call`` is a list of calls (see `call_list`), so that one is enough.
    """
    mark = literal(opening)
    if required and lists:
        return f"start: {mark} call\n{call}\n"
    if required:
        return f"start: {call_list(between, required=True, one=f'{mark} call')}\n{call}\n"
    # A lazy rule ends as soon as it can, so that no mark is taken for ordinary text.
    return f"start: TEXT | (begun call)+ TEXT\nbegun[lazy]: TEXT {mark}\nTEXT: /(.|\\n)*/\n{call}\n"
