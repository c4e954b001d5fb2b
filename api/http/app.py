"""Turns a `Runtime`, and the routers of plugins, into the application that a server runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from litestar import Litestar, Router
from litestar.datastructures import State

from corral.api.http.access_control import AccessControl
from corral.api.http.admission import Door, require_route_scope
from corral.api.http.anthropic import router as anthropic_router
from corral.api.http.body import refuse_body
from corral.api.http.body_memory import BodyMemory
from corral.api.http.dialects import Dialect, Dialects
from corral.api.http.disconnect import cancelled_on_disconnect
from corral.api.http.errors import EXCEPTION_HANDLERS, BodyTooLarge
from corral.api.http.llama_server import routers as llama_server_routers
from corral.api.http.ollama import router as ollama_router
from corral.api.http.ollama.dialect import OLLAMA
from corral.api.http.openai import router as openai_router
from corral.api.http.openapi import openapi_json
from corral.api.http.reranking import router as reranking_router
from corral.api.http.settings import HttpSettings
from corral.core.containment import short_line
from corral.core.ports.authenticators import Authenticator
from corral.core.runtime import Runtime

__all__ = ("create_app",)

_log = logging.getLogger("corral.http")

_BUILT_IN: tuple[Router, ...] = (
    ollama_router,
    openai_router,
    anthropic_router,
    reranking_router,
    *llama_server_routers,
)
"""The APIs that come with Corral. A router whose paths share a prefix has its dialect in ``opt["dialect"]``, as those
of plugins do; all other paths are Ollama's.
"""


def create_app(
    runtime: Runtime,
    routers: Sequence[Router] = (),
    settings: HttpSettings | None = None,
    authenticator: Authenticator | None = None,
) -> Litestar:
    """The ASGI application. Runtime and authenticator stay the caller's to close.

    Routers find the runtime as ``request.app.state.runtime``. Their routes are cancelled when the client leaves. A
    router that cannot be mounted because its path is taken, or whose ``opt["dialect"]`` is no `Dialect`, is logged and
    left out. Whatever a router raises is answered in the error envelope of its dialect.

    Without an `authenticator`, everyone may use all routes. With one, a route needs what its ``opt["scope"]`` says:
    ``open``, ``infer`` or ``manage``, otherwise ``admin``.
    """
    settings = settings or HttpSettings()
    bodies = BodyMemory(settings.max_body_bytes)
    dialects = Dialects(OLLAMA)
    for router in _BUILT_IN:
        if (dialect := router.opt.get("dialect")) is not None:
            dialects.add(router.path, dialect)
    app = Litestar(
        route_handlers=[*_BUILT_IN, openapi_json],
        state=State({"runtime": runtime, "bodies": bodies, "dialects": dialects}),
        exception_handlers={**EXCEPTION_HANDLERS, BodyTooLarge: refuse_body},
        on_shutdown=[bodies.close],
        guards=[require_route_scope],
        request_max_body_size=settings.max_body_bytes,
        openapi_config=None,
        logging_config=None,
    )
    for router in routers:
        try:
            dialect = router.opt.get("dialect")
            if not isinstance(dialect, Dialect | None):
                raise TypeError(f"its dialect is {short_line(repr(dialect), 60)}, which is not a Dialect")
            app.register(Router("/", route_handlers=[router], middleware=[cancelled_on_disconnect]))
            if dialect is not None:
                dialects.add(router.path, dialect)
        except Exception as error:  # a plugin's handlers may be anything
            _log.error("skipping the routes under %s: %s", router.path, short_line(error))
    admission = Door(authenticator, runtime.limits)
    admission.read_routes(app)
    app.asgi_handler = AccessControl(bodies.wrapped(app.asgi_handler), settings, dialects, admission)
    return app
