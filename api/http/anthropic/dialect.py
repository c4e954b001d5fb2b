"""Anthropic's dialect: the envelope of its errors, and its list of models."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from corral.api.http.anthropic.bodies import THREAD_UNSUPPORTED
from corral.api.http.anthropic.replies import AnthropicError, AnthropicErrorDetail, AnthropicModel, ModelPage
from corral.api.http.error_texts import text_of
from corral.api.http.errors import JSON, ApiError, ErrorReply, shown_text
from corral.api.http.model_listing import ListingDialect
from corral.core.errors import CorralError
from corral.core.models.model import StoredModel

__all__ = ("ANTHROPIC", "AnthropicDialect", "new_id")

_KINDS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_encode = msgspec.json.Encoder().encode


class AnthropicDialect(ListingDialect):
    name: ClassVar[str] = "anthropic"
    error = AnthropicError
    request_id_header: ClassVar[str] = "request-id"
    claims: ClassVar[Mapping[str, str]] = {"/v1/models": "anthropic-version"}

    def body(self, problem: ApiError) -> bytes:
        return self._enveloped(problem, new_id("req"))

    def reply(self, error: Exception) -> ErrorReply:
        problem = self.problem(error)
        request_id = new_id("req")
        headers = {**problem.headers, "request-id": request_id}
        body = self._enveloped(problem, request_id)
        return ErrorReply(status=problem.status, body=body, media_type=JSON, headers=headers)

    def text(self, error: CorralError) -> str:
        return text_of(error)

    def unknown_path(self) -> ErrorReply:
        return self.reply(ApiError(404, "there is no such path; /openapi.json lists all paths", code="unknown_path"))

    def model_list(self, records: Sequence[StoredModel]) -> bytes:
        models = [_model(record, record.name.short) for record in records]
        first, last = (models[0].id, models[-1].id) if models else (None, None)
        return _encode(ModelPage(data=models, first_id=first, last_id=last))

    def model(self, record: StoredModel, typed: str) -> bytes:
        return _encode(_model(record, typed))

    def _enveloped(self, problem: ApiError, request_id: str) -> bytes:
        kind = problem.kind or _KINDS.get(problem.status, "api_error")
        detail = AnthropicErrorDetail(type=kind, message=shown_text(problem.text), details=_details(problem))
        return _encode(AnthropicError(error=detail, request_id=request_id))


def _details(problem: ApiError) -> dict[str, Any] | UnsetType:
    if problem.code != THREAD_UNSUPPORTED:
        return UNSET
    return {"error_code": problem.code, "unsupported": [problem.param]}


def new_id(kind: str) -> str:
    """A new id like ``msg_0123456789abcdef01234567``."""
    return f"{kind}_{secrets.token_hex(12)}"


def _model(record: StoredModel, id: str) -> AnthropicModel:
    changed = datetime.fromtimestamp(int(record.modified_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return AnthropicModel(id=id, display_name=id, created_at=changed, max_input_tokens=record.context_length)


ANTHROPIC = AnthropicDialect()
