"""Rerankers' API, which several vendors share, under ``/api``, ``/v1`` and ``/``; errors have the form of the path."""

from __future__ import annotations

from litestar import Router

from corral.api.http.reranking.routes import rerank, rerank_at_root, rerank_v1

__all__ = ("router",)

router = Router("/", route_handlers=[rerank, rerank_v1, rerank_at_root], opt={"scope": "infer"})
