"""OpenAI's API: one router, its wire structs beside it."""

from __future__ import annotations

from litestar import Router

from corral.api.http.openai.chat import chat_completions
from corral.api.http.openai.completions import completions
from corral.api.http.openai.dialect import OPENAI
from corral.api.http.openai.embeddings import openai_embeddings
from corral.api.http.openai.models import get_model, list_models

__all__ = ("router",)

router = Router(
    path="/v1",
    route_handlers=[chat_completions, completions, openai_embeddings, list_models, get_model],
    opt={"dialect": OPENAI, "scope": "infer"},
)
