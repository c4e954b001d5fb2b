"""How every route of llama-server's that asks a model begins: it may leave out the model, as there is but one there."""

from __future__ import annotations

from typing import Any, TypeVar

from litestar import Request

from corral.api.http.callers import models_of
from corral.api.http.errors import ApiError
from corral.api.http.llama_server.bodies import LlamaServerBody
from corral.api.http.prologue import InferenceRequest, begin
from corral.api.http.remarks import Remarks
from corral.core.wording.clipping import clipped

__all__ = ("begun", "ignored_headers", "loading", "only_model")

BodyT = TypeVar("BodyT", bound=LlamaServerBody)

_NO_MODEL = ApiError(400, "model is required", param="model")


async def begun(request: Request[Any, Any, Any], kind: type[BodyT]) -> InferenceRequest[BodyT]:
    """The request with its body. Raises `ApiError`, also if nothing says which model is meant."""
    return await begin(request, kind, no_model=_NO_MODEL, not_found="model '{}' not found", default_model=only_model)


async def only_model(request: Request[Any, Any, Any]) -> str:
    """The only model in memory. Raises `ApiError` 400 if there is none, or if there are several."""
    names = sorted({one.record.name.short for one in models_of(request).loaded()})
    if len(names) == 1:
        return names[0]
    found = f"{len(names)} models are in memory ({clipped(', '.join(names), 200)})" if names else "none is in memory"
    raise ApiError(400, f'model name is missing from the request, and {found}: send it in "model"', param="model")


def loading(begun: InferenceRequest[Any]) -> dict[str, Any]:
    """The fields of a `LoadingCall`, but for its options."""
    return {
        "model": begun.model,
        "caller": begun.caller,
        "keep_alive_s": begun.keep_alive_s,
        "engine": begun.body.engine or None,
    }


def ignored_headers(body: LlamaServerBody) -> dict[str, str]:
    """The header that names what has had no effect."""
    return {name.decode(): value.decode() for name, value in Remarks(body.unknown).headers()}
