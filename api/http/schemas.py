"""How a dialect's wire structs appear in the API document, where their own names and types do not say enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corral.core.values import Value

__all__ = ("DocumentedSchema",)


class DocumentedSchema(Value, frozen=True, kw_only=True):
    """What the document says about one struct beyond its fields.

    `name` is the component's name; a struct without one is written where it is used. `required` are the fields that a
    client must send, although the struct has defaults for them. `fields` has JSON Schemas for fields whose Python type
    says too little, and for some that the struct lacks. `stream_name` is a second component, for a line of a stream.
    """

    name: str = ""
    required: tuple[str, ...] = ()
    fields: Mapping[str, Any] = {}
    stream_name: str = ""
