"""Some of llama-server's routes, each under a path of its own; all have its error envelope."""

from __future__ import annotations

from litestar import Router

from corral.api.http.llama_server.dialect import LLAMA_SERVER
from corral.api.http.llama_server.facts import health, props
from corral.api.http.llama_server.infill import infill
from corral.api.http.llama_server.tokens import apply_template, detokenize, tokenize

__all__ = ("routers",)

routers = tuple(
    Router(path=path, route_handlers=[handler], opt={"dialect": LLAMA_SERVER, "scope": "infer"})
    for path, handler in (
        ("/tokenize", tokenize),
        ("/detokenize", detokenize),
        ("/apply-template", apply_template),
        ("/infill", infill),
        ("/health", health),
        ("/props", props),
    )
)
