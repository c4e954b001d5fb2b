"""The OpenAPI document, made from the routes and their wire structs."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.routes import HTTPRoute

from corral.api.http.admission import OPEN, scope_of
from corral.api.http.dialects import Dialect
from corral.api.http.errors import JSON
from corral.api.http.schemas import DocumentedSchema

__all__ = ("openapi_json",)

_PATH = "#/components/schemas/"
_STATUSES = {
    400: "The request is not valid",
    401: "The request has no valid key, or nobody is signed in",
    403: "The key lacks the scope, the origin or host name is not allowed, the model is at ollama.com, which this "
    "server never contacts, or the web is not searched",
    404: "There is no such model",
    409: "The model was deleted while it was being prepared",
    408: "The request arrived too slowly",
    413: "The body is too large",
    415: "The body is compressed in a way that is not supported",
    429: "The limits of the key are reached",
    431: "The head of the request is too large",
    499: "The client left before it had an answer",
    500: "The server, an option or the model failed",
    501: "No installed engine runs the model, or the transfer encoding is not supported",
    502: "The server that runs the model, or one of the web, failed or cannot be reached",
    503: "The server is busy",
    505: "The version of HTTP is not supported",
    508: "The request has passed through this server before",
}
_OF_ALL_ROUTES = (400, 403, 408, 431, 500, 501, 503, 505, 508)
_WITH_A_BODY = (413, 415, 499)
_WITH_A_KEY = (401, 429)
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of this server"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key"},
}


@get("/openapi.json", operation_id="openapi", opt={"scope": OPEN})
async def openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
    """This server's API, plugins' routes included."""
    state = request.app.state
    if state.get("openapi") is None:  # routes do not change, and going through them all takes milliseconds
        state.openapi = msgspec.json.encode(_document(request.app))
    return Response(state.openapi, media_type=JSON)


def _document(app: Litestar) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    kinds: dict[Dialect, dict[type[Any], None]] = {app.state.dialects.default: {}}
    operations: list[tuple[Dialect, str, str, Any]] = []
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        dialect = app.state.dialects.of(route.path)
        for method, (handler, _) in route.route_handler_map.items():
            if method != "OPTIONS" and not (method == "HEAD" and "GET" in route.route_handler_map):
                operations.append((dialect, route.path_format, method.lower(), handler))
                of_route = (handler.opt.get("body"), handler.opt.get("reply"))
                kinds.setdefault(dialect, {}).update(dict.fromkeys(kind for kind in of_route if kind is not None))
    for dialect, of_dialect in kinds.items():
        of_dialect.update(dict.fromkeys((*dialect.schemas, *((dialect.error,) if dialect.error else ()))))
    schemas: dict[str, Any] = {}
    names: dict[Dialect, dict[type[Any], str]] = {}
    for dialect, of_dialect in kinds.items():
        names[dialect], components = _components(dialect, tuple(of_dialect))
        schemas |= components | dict(dialect.components)
    for dialect, path, verb, handler in operations:
        paths.setdefault(path, {})[verb] = _operation(handler, path, dialect, names[dialect])
    return {
        "openapi": "3.1.0",
        "info": {"title": "Corral", "version": app.state.runtime.version},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _SCHEMES},
    }


def _components(dialect: Dialect, kinds: tuple[type[Any], ...]) -> tuple[dict[type[Any], str], dict[str, Any]]:
    """The names of `kinds`, and their schemas by name. Two dialects may have structs of the same name."""
    references, made = msgspec.json.schema_components(kinds, ref_template="{name}")
    keys = {kind: reference["$ref"] for kind, reference in zip(kinds, references, strict=True)}
    told = {keys[kind]: documented for kind, documented in dialect.schemas.items()}
    names = {key: told[key].name if key in told else f"{dialect.name}.{key}" for key in made}

    def linked(value: Any) -> Any:
        if isinstance(value, list):
            return [linked(item) for item in value]
        if not isinstance(value, dict):
            return value
        if (key := value.get("$ref")) in names:
            return {"$ref": _PATH + names[key]} if names[key] else linked(made[key])
        return {name: linked(item) for name, item in value.items() if name != "default" or item}

    components: dict[str, Any] = {}
    for key, schema in made.items():
        documented = told.get(key, DocumentedSchema(name=names[key]))
        made[key] = _completed(schema, documented)
    for key in dict.fromkeys((*told, *made)):
        for name in (names[key], told[key].stream_name if key in told else ""):
            if name and name not in components:
                components[name] = {**linked(made[key]), "title": name}
    return {kind: names[key] for kind, key in keys.items()}, components


def _completed(schema: dict[str, Any], documented: DocumentedSchema) -> dict[str, Any]:
    properties: dict[str, Any] = schema.get("properties", {}) | documented.fields
    completed = schema | {"properties": properties}
    if required := [*schema.get("required", ()), *documented.required]:
        completed["required"] = list(dict.fromkeys(required))
    return completed


def _operation(handler: Any, path: str, dialect: Dialect, names: dict[type[Any], str]) -> dict[str, Any]:
    body, reply, is_binary = handler.opt.get("body"), handler.opt.get("reply"), handler.opt.get("binary", False)
    success: dict[str, Any] = {"description": "The answer"}
    if reply is not None:
        content = {"application/json": {"schema": {"$ref": _PATH + names[reply]}}}
        if handler.opt.get("events"):
            content["text/event-stream"] = {"schema": {"type": "string"}}
        if handler.opt.get("ndjson"):
            documented = dialect.schemas.get(reply)
            name = (documented and documented.stream_name) or names[reply]
            content["application/x-ndjson"] = {"schema": {"$ref": _PATH + name}}
        success["content"] = content
    failure: dict[str, Any] = {}
    if dialect.error is not None:
        failure["content"] = {"application/json": {"schema": {"$ref": _PATH + names[dialect.error]}}}
    has_body = body is not None or is_binary
    is_open = scope_of(handler) == OPEN
    statuses = (
        *_OF_ALL_ROUTES,
        *(() if is_open else _WITH_A_KEY),
        *(_WITH_A_BODY if has_body else ()),
        *handler.opt.get("statuses", ()),
    )
    failures = {str(status): {"description": _STATUSES.get(status, "Refused"), **failure} for status in statuses}
    told = handler.opt.get("successes", {200: ""} if handler.opt.get("succeeds", True) else {})
    successes = {str(status): {**success, **({"description": text} if text else {})} for status, text in told.items()}
    operation: dict[str, Any] = {"responses": {**successes, **dict(sorted(failures.items()))}}
    operation["security"] = [] if is_open else [{name: []} for name in _SCHEMES]
    operation["x-corral-scope"] = scope_of(handler)
    of_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    of_query = [{"name": name, "in": "query", "schema": kind} for name, kind in handler.opt.get("query", {}).items()]
    if parameters := of_path + of_query:
        operation["parameters"] = parameters
    if isinstance(handler.operation_id, str):
        operation["operationId"] = handler.operation_id
    if doc := handler.fn.__doc__:
        operation["summary"] = doc.strip().splitlines()[0]
    if body is not None:
        schema = {"$ref": _PATH + names[body]}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    elif is_binary:
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    return operation
