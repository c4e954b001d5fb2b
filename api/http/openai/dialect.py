"""OpenAI's dialect: the envelope of its errors, and what its clients know them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from corral.api.http.error_texts import text_of
from corral.api.http.errors import ApiError, ErrorReply, shown_text
from corral.api.http.model_listing import ListingDialect
from corral.api.http.openai.replies import ErrorDetail, ErrorObject, ModelObject, ModelObjects
from corral.core.errors import CorralError, InvalidRequest, ModelNotFound, PromptTooLong
from corral.core.models.model import StoredModel

__all__ = ("OPENAI", "OpenAIDialect")

_KINDS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_CODES: Mapping[str, str] = {
    PromptTooLong.code: "context_length_exceeded",
    "unknown_path": "unknown_url",
    "unauthenticated": "invalid_api_key",
    "too_many_requests": "rate_limit_exceeded",
}
"""Codes for which OpenAI has names of its own."""

_PLAIN_CODES = frozenset({CorralError.code, InvalidRequest.code})
"""Codes that say no more than the status does."""

_encode = msgspec.json.Encoder().encode


class OpenAIDialect(ListingDialect):
    name: ClassVar[str] = "openai"
    error = ErrorObject
    request_id_header: ClassVar[str] = "x-request-id"

    def body(self, problem: ApiError) -> bytes:
        return _encode(ErrorObject(error=self.detail(problem)))

    def detail(self, problem: ApiError) -> ErrorDetail:
        """The error without its envelope."""
        code = None if problem.code in _PLAIN_CODES else problem.code
        return ErrorDetail(
            message=shown_text(problem.text),
            type=problem.kind or _KINDS.get(problem.status, "api_error"),
            param=problem.param,
            code=_CODES.get(code or "", code),
        )

    def text(self, error: CorralError) -> str:
        return text_of(error)

    def problem(self, error: Exception) -> ApiError:
        problem = super().problem(error)
        if isinstance(error, ModelNotFound):
            problem.param = "model"
        return problem

    def unknown_path(self) -> ErrorReply:
        return self.reply(ApiError(404, "there is no such path; /openapi.json lists all paths", code="unknown_path"))

    def model_list(self, records: Sequence[StoredModel]) -> bytes:
        return _encode(ModelObjects(data=[_model(record, record.name.short) for record in records]))

    def model(self, record: StoredModel, typed: str) -> bytes:
        return _encode(_model(record, typed))


def _model(record: StoredModel, id: str) -> ModelObject:
    return ModelObject(id=id, created=int(record.modified_at), owned_by=record.name.namespace)


OPENAI = OpenAIDialect()
