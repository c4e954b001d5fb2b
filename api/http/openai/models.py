"""``/v1/models`` and ``/v1/models/{name}``."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get

from corral.api.http.model_listing import answer_model, answer_models
from corral.api.http.openai.dialect import OPENAI
from corral.api.http.openai.replies import ModelObject, ModelObjects

__all__ = ("get_model", "list_models")


@get("/models", operation_id="listModels", opt={"reply": ModelObjects})
async def list_models(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The models of the store, newest first, in the shape of the caller's API."""
    return await answer_models(request, OPENAI)


@get("/models/{name:path}", operation_id="retrieveModel", opt={"reply": ModelObject, "statuses": (404,)})
async def get_model(request: Request[Any, Any, Any]) -> Response[bytes]:
    """One model, in the shape of the caller's API. Names with slashes need no escapes."""
    return await answer_model(request, request.path_params["name"].removeprefix("/"), OPENAI)
