"""Who sent a request, and the models as they may see them: what a route asks."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.types import Scope

from corral.core.access.models import CallerModels
from corral.core.requests.caller import ANONYMOUS, Caller
from corral.core.runtime import Runtime

__all__ = ("caller_of", "keep_caller", "models_of")

_KEY = "corral.caller"


def caller_of(scope: Scope) -> Caller:
    """Who sent this request. Anonymous if it did not come through `AccessControl`."""
    caller = scope["state"].get(_KEY)
    return caller if isinstance(caller, Caller) else ANONYMOUS


def keep_caller(scope: Scope, caller: Caller) -> None:
    scope["state"][_KEY] = caller


def models_of(request: Request[Any, Any, Any]) -> CallerModels:
    """The models of this server as the request's sender may see and change them."""
    runtime: Runtime = request.app.state.runtime
    return runtime.models_for(caller_of(request.scope))
