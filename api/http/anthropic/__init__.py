"""Anthropic's API: one router, its wire structs beside it."""

from __future__ import annotations

from litestar import Router

from corral.api.http.anthropic.dialect import ANTHROPIC
from corral.api.http.anthropic.routes import count_tokens, create_message

__all__ = ("router",)

router = Router(
    path="/v1/messages", route_handlers=[create_message, count_tokens], opt={"dialect": ANTHROPIC, "scope": "infer"}
)
