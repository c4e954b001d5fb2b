"""The two questions about a principal: does it have the scope, and may it use the model."""

from __future__ import annotations

from corral.core.access_errors import Forbidden
from corral.core.catalog.lookup import model_not_found
from corral.core.models.names import ModelName
from corral.core.requests.principal import Principal, Scope

__all__ = ("require_model", "require_new_name", "require_scope")


def require_scope(principal: Principal, scope: Scope) -> None:
    """Raises `Forbidden` if it does not have the scope."""
    if not principal.has(scope):
        raise Forbidden(
            f"{principal.name!r} may not do this: it lacks the scope {scope!r}",
            "use a key with this scope, as corral keys create --scopes makes one",
        )


def require_model(principal: Principal, name: ModelName) -> None:
    """Raises `ModelNotFound` if it may not use the model, exactly as if there was none."""
    if not principal.may_use(name.short):
        raise model_not_found(name)


def require_new_name(principal: Principal, name: ModelName) -> None:
    """Raises `Forbidden` if it may not use the name for a model of its own, whether or not there is one."""
    if not principal.may_use(name.short):
        raise Forbidden(
            f"{principal.name!r} may not use the name {name.short!r}",
            f"choose one that matches {' or '.join(principal.models) or 'nothing'}",
        )
