"""Ollama's native API: one router, its wire structs beside it."""

from __future__ import annotations

from litestar import Router

from corral.api.http.ollama.cloud import web_fetch, web_search
from corral.api.http.ollama.embeddings import embed, embeddings
from corral.api.http.ollama.inference import chat, generate
from corral.api.http.ollama.models import copy, delete, list_models, list_running, root, show, version
from corral.api.http.ollama.transfers import pull, push

__all__ = ("router",)

router = Router(
    path="/",
    route_handlers=[
        root, version, list_models, list_running, show, copy, delete, pull, push, generate, chat, embed, embeddings,
        web_search, web_fetch,
    ],
)  # fmt: skip
