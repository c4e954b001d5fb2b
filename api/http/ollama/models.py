"""The routes about models: ``/``, ``/api/version``, ``/api/tags``, ``/api/ps``, ``/api/show``, copy and delete."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from litestar import Request, Response, get, post, route
from litestar import delete as delete_route
from litestar.types import ASGIApp, Receive, Scope, Send

from corral.api.http.admission import OPEN
from corral.api.http.body import read_json
from corral.api.http.callers import models_of
from corral.api.http.errors import JSON, ApiError
from corral.api.http.naming import read_name, without_selector
from corral.api.http.ollama.bodies import CopyBody, DeleteBody, ShowBody
from corral.api.http.ollama.replies import (
    Details,
    ListedModel,
    ListReply,
    ProcessReply,
    ReplyMessage,
    RunningModelReply,
    ShowReply,
    TensorReply,
    VersionReply,
    tool_calls_of,
)
from corral.api.http.request_log import request_log
from corral.api.http.timestamps import local_timestamp
from corral.api.modelfile.showing import modelfile_text, parameters_text
from corral.core.catalog.catalog import ModelCatalog
from corral.core.errors import CorralError, ModelNotFound
from corral.core.models.manifest_or_weights import completed
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.models.unused_parts import unused_parts
from corral.core.runtime import Runtime
from corral.core.scheduling.leases import LoadedModel

__all__ = ("OLLAMA_VERSION", "copy", "delete", "list_models", "list_running", "root", "show", "version")

OLLAMA_VERSION = "0.33.0"
"""The Ollama release whose contract these routes keep. Clients switch features on by it."""

_FOREVER_S = 292 * 365.25 * 86400  # what Ollama shows for a model that is kept forever: the maximum of its clock
_COPILOT = "GitHubCopilotChat/"
_LEFT_OUT_OF_INFO = ("general.name", "tokenizer.chat_template")

_encode = msgspec.json.Encoder().encode


@route("/", http_method=["GET", "HEAD"], status_code=200, operation_id="root", opt={"scope": OPEN})
async def root(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Answers people and health checks."""
    return _respond(request, b"Ollama is running", "text/plain; charset=utf-8")


@route(
    "/api/version",
    http_method=["GET", "HEAD"],
    status_code=200,
    operation_id="version",
    opt={"scope": OPEN, "reply": VersionReply},
)
async def version(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Ollama's version, whose API this is, and Corral's own. A server without the second is not Corral."""
    return _respond(request, _encode(VersionReply(version=OLLAMA_VERSION, corral=_runtime(request).version)))


@route(
    "/api/tags",
    http_method=["GET", "HEAD"],
    status_code=200,
    operation_id="list",
    opt={"scope": "infer", "reply": ListReply},
)
async def list_models(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The models of the store, newest first."""
    catalog = _runtime(request).catalog
    models = [await _listed(catalog, record) for record in await models_of(request).list()]
    return _respond(request, _encode(ListReply(models=models)))


@get("/api/ps", operation_id="ps", opt={"scope": "infer", "reply": ProcessReply})
async def list_running(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The models in memory; the one that stays longest comes first."""
    runtime = _runtime(request)
    models = [await _running(runtime.catalog, loaded) for loaded in models_of(request).loaded()]
    return _respond(request, _encode(ProcessReply(models=models)))


@post(
    "/api/show",
    status_code=200,
    operation_id="show",
    opt={"scope": "infer", "body": ShowBody, "reply": ShowReply, "statuses": (404,)},
)
async def show(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Everything that is known about a model. If the weights cannot be read, `model_info` is empty."""
    body = await read_json(request, ShowBody)
    request_log(request.scope).model = body.subject
    if not body.subject.strip():
        raise ApiError(400, "model is required")
    name = read_name(without_selector(body.subject, cloud_text="remote model details are unavailable"))
    runtime = _runtime(request)
    try:
        record = await models_of(request).get(name)
    except ModelNotFound as error:
        raise ApiError(404, f"model '{name.short}' not found") from error
    # Copilot Chat shows this key as the model's name.
    is_copilot = request.headers.get("user-agent", "").startswith(_COPILOT)
    return _respond(request, _encode(await _shown(runtime, record, body, body.subject if is_copilot else None)))


@post("/api/copy", status_code=200, operation_id="copy", opt={"scope": "manage", "body": CopyBody, "statuses": (404,)})
async def copy(request: Request[Any, Any, Any]) -> ASGIApp:
    """Gives a model a second name."""
    body = await read_json(request, CopyBody)
    request_log(request.scope).model = body.source
    source = read_name(body.source, f'source "{body.source}" is invalid')
    destination = read_name(body.destination, f'destination "{body.destination}" is invalid')
    try:
        await models_of(request).copy(source, destination)
    except ModelNotFound as error:
        raise ApiError(404, f'model "{body.source}" not found') from error
    return _nothing


@delete_route(
    "/api/delete",
    status_code=200,
    operation_id="delete",
    opt={"scope": "manage", "body": DeleteBody, "statuses": (403, 404)},
)
async def delete(request: Request[Any, Any, Any]) -> ASGIApp:
    """Removes a name and the blobs that only it used. If the model is loaded, it stays so until its keep-alive ends."""
    body = await read_json(request, DeleteBody)
    request_log(request.scope).model = body.subject
    if not body.subject.strip():
        raise ApiError(400, "model is required")
    name = read_name(body.subject, f'name "{body.subject}" is invalid')
    try:
        await models_of(request).delete(name)
    except ModelNotFound as error:
        raise ApiError(404, f"model '{body.subject}' not found") from error
    return _nothing


def _runtime(request: Request[Any, Any, Any]) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers 200 without a body, and therefore without a content type."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _respond(request: Request[Any, Any, Any], body: bytes, media_type: str = JSON) -> Response[bytes]:
    """The response to a HEAD request has the same headers as that to GET."""
    headers = {"content-length": str(len(body)), "content-type": media_type}
    return Response(b"" if request.method == "HEAD" else body, headers=headers)


def _details(record: StoredModel, metadata: ModelMetadata | None) -> Details:
    model = completed(record, metadata)
    return Details(
        parent_model="",
        format=model.format,
        family=model.family,
        families=model.families or None,
        parameter_size=model.parameter_size,
        quantization_level=model.quantization,
        context_length=model.context_length or 0,
        embedding_length=model.embedding_length or 0,
    )


async def _listed(catalog: ModelCatalog, record: StoredModel) -> ListedModel:
    return ListedModel(
        name=record.name.short,
        model=record.name.short,
        modified_at=local_timestamp(record.modified_at),
        size=record.size_bytes,
        digest=record.digest.removeprefix("sha256:"),
        details=_details(record, await catalog.readable_metadata(record)),
        capabilities=await catalog.capabilities(record),
        remote_model=record.remote.model if record.remote else "",
        remote_host=record.remote.host if record.remote else "",
    )


async def _running(catalog: ModelCatalog, loaded: LoadedModel) -> RunningModelReply:
    record, memory = loaded.record, loaded.info.memory_bytes
    expires_at = time.time() + _FOREVER_S if loaded.expires_at is None else loaded.expires_at
    return RunningModelReply(
        name=record.name.short,
        model=record.name.short,
        size=sum(memory.values()),
        digest=record.digest.removeprefix("sha256:"),
        details=_details(record, await catalog.readable_metadata(record)),
        expires_at=local_timestamp(expires_at),
        size_vram=sum(size for device, size in memory.items() if device != "cpu"),
        context_length=loaded.info.context_length or 0,
        corral=_corral_facts(loaded),
    )


def _corral_facts(loaded: LoadedModel) -> dict[str, Any]:
    """What runs a model, which Ollama's own fields do not say."""
    return {
        "engine": loaded.engine,
        "runner": loaded.runner,
        "process_id": loaded.info.process_id,
        "parallel": loaded.info.parallel,
        "active": loaded.active,
        "features": sorted(loaded.info.features),
        "memory_bytes": loaded.info.memory_bytes,
        "details": loaded.info.details,
        "prefixes": [msgspec.to_builtins(tier) for tier in loaded.info.prefixes],
    }


async def _shown(runtime: Runtime, record: StoredModel, body: ShowBody, base_name: str | None) -> ShowReply:
    catalog = runtime.catalog
    corral: dict[str, Any] = {}
    info: dict[str, object] = {}
    projector: dict[str, object] = {}
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    metadata = None
    try:
        metadata = await catalog.metadata(record)
        info = await catalog.describe(record, verbose=body.verbose)
        tensors = await catalog.tensors(record)
        projector = await catalog.describe_projector(record, verbose=body.verbose)
    except CorralError as error:
        corral["problem"] = error.message
    if base_name is not None:
        info["general.basename"] = base_name
    corral["files"] = [{field: getattr(file, field) for field in file.__struct_fields__} for file in record.files]
    unused = unused_parts(record)
    if unused:
        corral["unused"] = unused
    for loaded in runtime.scheduler.loaded():
        if loaded.record.digest == record.digest:
            corral |= _corral_facts(loaded)
    modelfile = modelfile_text(
        record,
        catalog.local_files(record),
        template=record.template.text if record.template else "",
        system=body.system or record.system or "",
        parameters={**record.parameters, **body.options},
    )
    return ShowReply(
        modelfile=modelfile,
        details=_details(record, metadata),
        projector_info=projector,
        model_info={key: value for key, value in info.items() if key not in _LEFT_OUT_OF_INFO},
        modified_at=local_timestamp(record.modified_at),
        license="\n".join(record.licenses),
        parameters=parameters_text(record.parameters),
        template=catalog.template(record, metadata),
        system=record.system or "",
        messages=tuple(
            ReplyMessage(role=message.role, content=message.content, tool_calls=tool_calls_of(message.tool_calls))
            for message in record.messages
        ),
        tensors=tuple(TensorReply(name=name, type=kind, shape=shape) for name, kind, shape in tensors),
        capabilities=await catalog.capabilities(record),
        requires=record.requires or "",
        remote_model=record.remote.model if record.remote else "",
        remote_host=record.remote.host if record.remote else "",
        corral=corral,
    )
