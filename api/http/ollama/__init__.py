"""Ollama's native API: one router, its wire structs beside it."""

from __future__ import annotations

from litestar import Router

from corral.api.http.ollama.blobs import create_blob, has_blob
from corral.api.http.ollama.cloud import (
    account,
    cloud_status,
    forget_key,
    recommendations,
    sign_out,
)
from corral.api.http.ollama.create import create
from corral.api.http.ollama.embeddings import embed, embeddings
from corral.api.http.ollama.inference import chat, generate
from corral.api.http.ollama.models import copy, delete, list_models, list_running, root, show, version
from corral.api.http.ollama.tokens import detokenize, tokenize
from corral.api.http.ollama.transfers import pull, push
from corral.api.http.ollama.web import web_fetch, web_search

__all__ = ("router",)

router = Router(
    path="/",
    route_handlers=[
        root, version, list_models, list_running, show, copy, delete, pull, push, has_blob, create_blob, create,
        generate, chat, embed, embeddings, tokenize, detokenize, web_search, web_fetch, cloud_status,
        recommendations, account, sign_out, forget_key,
    ],
)  # fmt: skip
