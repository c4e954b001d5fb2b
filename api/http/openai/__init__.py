"""OpenAI's API: one router, its wire structs beside it."""

from __future__ import annotations

from litestar import Router

from corral.api.http.openai.dialect import OPENAI
from corral.api.http.openai.models import get_model, list_models

__all__ = ("router",)

router = Router(path="/v1", route_handlers=[list_models, get_model], opt={"dialect": OPENAI, "scope": "infer"})
