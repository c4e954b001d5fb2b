"""Rerankers' API, which several vendors share, under several prefixes; errors have the form of the path."""

from __future__ import annotations

from litestar import Router

from corral.api.http.reranking.routes import rerank, rerank_at_root, rerank_v1, rerank_v2

__all__ = ("router",)

router = Router("/", route_handlers=[rerank, rerank_v1, rerank_v2, rerank_at_root], opt={"scope": "infer"})
