"""The OpenAPI document, made from the routes and their wire structs."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.routes import HTTPRoute

from corral.api.http.errors import JSON

__all__ = ("openapi_json",)

_PATH = "#/components/schemas/"


@get("/openapi.json")
async def openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
    """This server's API, plugins' routes included."""
    state = request.app.state
    if state.get("openapi") is None:  # routes do not change, and going through them all takes milliseconds
        state.openapi = msgspec.json.encode(_document(request.app))
    return Response(state.openapi, media_type=JSON)


def _document(app: Litestar) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    kinds: dict[str, dict[type[Any], None]] = {}
    operations: list[tuple[str, str, str, Any]] = []
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        dialect: str = app.state.dialects.of(route.path).name
        for method, (handler, _) in route.route_handler_map.items():
            if method not in ("OPTIONS", "HEAD"):
                operations.append((dialect, route.path_format, method.lower(), handler))
                of_route = (handler.opt.get("body"), handler.opt.get("reply"))
                kinds.setdefault(dialect, {}).update(dict.fromkeys(kind for kind in of_route if kind is not None))
    schemas: dict[str, Any] = {}
    references: dict[tuple[str, type[Any]], dict[str, Any]] = {}
    for dialect, of_dialect in kinds.items():
        # Two dialects may have structs of the same name.
        found, components = msgspec.json.schema_components(of_dialect, ref_template=f"{_PATH}{dialect}.{{name}}")
        schemas |= {f"{dialect}.{name}": schema for name, schema in components.items()}
        references |= {(dialect, kind): reference for kind, reference in zip(of_dialect, found, strict=True)}
    for dialect, path, verb, handler in operations:
        body, reply = (references.get((dialect, handler.opt.get(key))) for key in ("body", "reply"))
        paths.setdefault(path, {})[verb] = _operation(handler, body, reply)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Corral", "version": app.state.runtime.version},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(handler: Any, body: dict[str, Any] | None, reply: dict[str, Any] | None) -> dict[str, Any]:
    operation: dict[str, Any] = {"responses": {"200": {"description": "The answer"}}}
    if doc := handler.fn.__doc__:
        operation["summary"] = doc.strip().splitlines()[0]
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if reply is not None:
        types = ("application/json", "application/x-ndjson") if handler.opt.get("ndjson") else ("application/json",)
        operation["responses"]["200"]["content"] = {media_type: {"schema": reply} for media_type in types}
    return operation
