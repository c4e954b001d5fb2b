"""The OpenAPI document, made from the routes and their wire structs."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.routes import HTTPRoute

from corral.api.http.errors import JSON

__all__ = ("openapi_json",)

_REF = "#/components/schemas/{name}"


@get("/openapi.json")
async def openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
    """This server's API, plugins' routes included."""
    state = request.app.state
    if state.get("openapi") is None:  # routes do not change, and going through them all takes milliseconds
        state.openapi = msgspec.json.encode(_document(request.app))
    return Response(state.openapi, media_type=JSON)


def _document(app: Litestar) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    kinds: dict[str, type[Any]] = {}
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        for method, (handler, _) in route.route_handler_map.items():
            if method not in ("OPTIONS", "HEAD"):
                for kind in (handler.opt.get("body"), handler.opt.get("reply")):
                    if kind is not None:
                        kinds[kind.__name__] = kind
                paths.setdefault(route.path_format, {})[method.lower()] = _operation(handler.fn.__doc__, handler.opt)
    _, schemas = msgspec.json.schema_components(kinds.values(), ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Corral", "version": app.state.runtime.version},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(doc: str | None, opt: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"responses": {"200": {"description": "The answer"}}}
    if doc:
        operation["summary"] = doc.strip().splitlines()[0]
    if (body := opt.get("body")) is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": _schema(body)}}
    if (reply := opt.get("reply")) is not None:
        types = ("application/json", "application/x-ndjson") if opt.get("ndjson") else ("application/json",)
        operation["responses"]["200"]["content"] = {media_type: _schema(reply) for media_type in types}
    return operation


def _schema(kind: type[Any]) -> dict[str, Any]:
    return {"schema": {"$ref": _REF.format(name=kind.__name__)}}
