"""``/v1/models``, which the APIs of several vendors have: each caller gets it in the shape of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Request, Response

from corral.api.http.callers import models_of
from corral.api.http.dialects import Dialect
from corral.api.http.errors import JSON, ApiError, asked_of, dialects_of
from corral.api.http.naming import read_name, without_selector
from corral.api.http.request_log import request_log
from corral.core.errors import ModelNotFound
from corral.core.models.model import StoredModel

__all__ = ("ListingDialect", "answer_model", "answer_models")


class ListingDialect(Dialect):
    """A dialect that lists models at ``/v1/models``."""

    def model_list(self, records: Sequence[StoredModel]) -> bytes:
        """The body for these models, newest first."""
        raise NotImplementedError

    def model(self, record: StoredModel, typed: str) -> bytes:
        """The body for one model, under the name that the caller has typed."""
        raise NotImplementedError


async def answer_models(request: Request[Any, Any, Any], default: ListingDialect) -> Response[bytes]:
    """All models, as the caller's dialect lists them, or as `default` does."""
    return Response(_dialect(request, default).model_list(await models_of(request).list()), media_type=JSON)


async def answer_model(request: Request[Any, Any, Any], typed: str, default: ListingDialect) -> Response[bytes]:
    """One model; its name may contain slashes. Raises `ApiError` 404 if it is not in the store."""
    request_log(request.scope).model = typed
    try:
        record = await models_of(request).get(read_name(without_selector(typed)))
    except ModelNotFound as error:
        raise ApiError(404, f"model '{typed}' not found", code=error.code, param="model") from error
    return Response(_dialect(request, default).model(record, typed), media_type=JSON)


def _dialect(request: Request[Any, Any, Any], default: ListingDialect) -> ListingDialect:
    found = dialects_of(request).of(*asked_of(request.scope))
    return found if isinstance(found, ListingDialect) else default
