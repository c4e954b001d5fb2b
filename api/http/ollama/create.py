"""``/api/create``: makes a model from another one, or from files that were uploaded before."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.types import ASGIApp

from corral.api.http.body import read_json
from corral.api.http.callers import models_of
from corral.api.http.errors import ApiError
from corral.api.http.naming import read_name, without_selector
from corral.api.http.ollama.create_body import CreateBody
from corral.api.http.ollama.dialect import OLLAMA
from corral.api.http.ollama.replies import StatusReply
from corral.api.http.ollama.status_events import StatusEvents
from corral.api.http.ollama.transfer_stage import TransferStage
from corral.api.http.request_log import request_log
from corral.core.errors import InvalidModelFile
from corral.core.ports.sources import OnProgress

__all__ = ("create",)


@post(
    "/api/create",
    status_code=200,
    operation_id="create",
    opt={"scope": "manage", "body": CreateBody, "reply": StatusReply, "ndjson": True, "statuses": (404, 409)},
)
async def create(request: Request[Any, Any, Any]) -> ASGIApp:
    """Creates a model from another model, or from files that were uploaded."""
    body = await read_json(request, CreateBody)
    request_log(request.scope).model = body.subject
    call = body.to_core(read_name(body.subject.strip()), _base(body))
    models = models_of(request)

    async def work(on_progress: OnProgress) -> StatusReply:
        stage = TransferStage(on_progress)
        with stage.translating():
            try:
                await models.create(call, stage.report)
            except InvalidModelFile as error:
                raise ApiError(400, OLLAMA.text(error)) from error
        return StatusReply(status="success")

    return StatusEvents(work, stream=body.stream)


def _base(body: CreateBody) -> str:
    """`from`, checked unless it is a reference of another kind than a name."""
    base = without_selector(body.base)
    if base and not ("://" in base and not base.startswith(("http://", "https://"))):
        read_name(base)
    return base
