"""The routes that bring models here and publish them: ``/api/pull`` and ``/api/push``."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.types import ASGIApp

from corral.api.http.body import read_json
from corral.api.http.callers import models_of
from corral.api.http.errors import ApiError
from corral.api.http.naming import read_name, without_selector
from corral.api.http.ollama.replies import StatusReply
from corral.api.http.ollama.status_events import StatusEvents
from corral.api.http.ollama.transfer_bodies import PullBody, PushBody
from corral.api.http.ollama.transfer_stage import TransferStage
from corral.api.http.request_log import request_log
from corral.core.errors import InvalidName
from corral.core.models.names import parse_name
from corral.core.ports.sources import OnProgress

__all__ = ("pull", "push")


@post(
    "/api/pull",
    status_code=200,
    operation_id="pull",
    opt={"scope": "manage", "body": PullBody, "reply": StatusReply, "ndjson": True, "statuses": (409,)},
)
async def pull(request: Request[Any, Any, Any]) -> ASGIApp:
    """Fetches a model from a registry or a source."""
    body = await read_json(request, PullBody)
    request_log(request.scope).model = body.subject
    reference = without_selector(body.subject)
    name = None if "://" in reference else read_name(reference)
    if body.destination:
        name = read_name(body.destination, f'destination "{body.destination}" is invalid')
    models = models_of(request)

    async def work(on_progress: OnProgress) -> StatusReply:
        stage = TransferStage(on_progress)
        with stage.translating():
            record = await models.pull(reference, name, stage.report, insecure=body.insecure)
        return StatusReply(status="success", model=record.name.short)

    return StatusEvents(work, stream=body.stream)


@post(
    "/api/push",
    status_code=200,
    operation_id="push",
    opt={"scope": "manage", "body": PushBody, "reply": StatusReply, "ndjson": True, "statuses": (409,)},
)
async def push(request: Request[Any, Any, Any]) -> ASGIApp:
    """Publishes a model in a registry."""
    body = await read_json(request, PushBody)
    request_log(request.scope).model = body.subject
    if not body.subject.strip():
        raise ApiError(400, "model is required")
    typed = without_selector(body.subject)
    try:
        name = parse_name(typed)
    except InvalidName as error:
        raise ApiError(500, f"unqualified name: {typed}") from error
    models = models_of(request)

    async def work(on_progress: OnProgress) -> StatusReply:
        stage = TransferStage(on_progress)
        with stage.translating():
            digest = await models.push(
                name,
                body.destination,
                stage.report,
                manifest_format=body.format or None,
                insecure=body.insecure,
            )
        return StatusReply(status="success", manifest=digest)

    return StatusEvents(work, stream=body.stream)
