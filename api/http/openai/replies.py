"""The response bodies of OpenAI's routes, with all their keys, in the vendor's order."""

from __future__ import annotations

import msgspec

__all__ = ("ErrorDetail", "ErrorObject", "ModelObject", "ModelObjects")


class OpenAIReply(msgspec.Struct, frozen=True, kw_only=True):
    """Base of responses."""


class ErrorDetail(OpenAIReply, frozen=True, kw_only=True):
    """What went wrong: `param` is the field of the request, `code` a name for programs; None if there is none."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorObject(OpenAIReply, frozen=True, kw_only=True):
    """What every error is wrapped in."""

    error: ErrorDetail


class ModelObject(OpenAIReply, frozen=True, kw_only=True):
    """A model of the store. `created` is when it was last changed, in seconds since 1970."""

    id: str
    object: str = "model"
    created: int
    owned_by: str


class ModelObjects(OpenAIReply, frozen=True, kw_only=True):
    object: str = "list"
    data: list[ModelObject]
