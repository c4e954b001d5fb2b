"""``/health`` and ``/props``: whether the server answers, and what a model is asked with."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get, route

from corral.api.http.admission import OPEN
from corral.api.http.callers import models_of
from corral.api.http.errors import JSON, ApiError
from corral.api.http.naming import read_name, without_selector
from corral.api.http.request_log import request_log
from corral.core.errors import ModelNotFound
from corral.core.models.manifest_or_weights import completed
from corral.core.requests.options import resolve_options
from corral.core.requests.requests import SamplingParams
from corral.core.runtime import Runtime
from corral.core.scheduling.leases import LoadedModel

__all__ = ("health", "props")

_encode = msgspec.json.Encoder().encode


class Health(msgspec.Struct, frozen=True, kw_only=True):
    status: str = "ok"


class Modalities(msgspec.Struct, frozen=True, kw_only=True):
    vision: bool
    audio: bool


class GenerationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a request that sets none. `n_ctx` is 0 if it is not known."""

    params: dict[str, Any] | None
    n_ctx: int


class ServerProps(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a model, or of the server alone: then `role` is ``router``, as of a llama-server with several.

    `model_path` is the model's name: no client learns where files are. `is_sleeping`: it is not in memory.
    """

    role: str = ""
    default_generation_settings: GenerationSettings
    total_slots: int
    model_alias: str
    model_ftype: str = ""
    model_path: str
    modalities: Modalities | None = None
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    build_info: str
    is_sleeping: bool | None = None


@route("/", http_method=["GET", "HEAD"], status_code=200, operation_id="health", opt={"scope": OPEN, "reply": Health})
async def health(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Whether the server answers. Everybody may ask."""
    body = _encode(Health())
    headers = {"content-length": str(len(body)), "content-type": JSON}
    return Response(b"" if request.method == "HEAD" else body, headers=headers)


@get("/", operation_id="props", opt={"reply": ServerProps, "statuses": (404,)})
async def props(request: Request[Any, Any, Any]) -> Response[bytes]:
    """What `model` in the query is asked with, or the only model in memory; without either, only of the server."""
    runtime: Runtime = request.app.state.runtime
    loaded = models_of(request).loaded()
    typed = request.query_params.get("model", "").strip()
    names = {one.record.name.short for one in loaded}
    if not typed and len(names) != 1:
        return Response(_encode(_of_the_server(runtime)), media_type=JSON)
    name = typed or names.pop()
    request_log(request.scope).model = name
    return Response(_encode(await _of_a_model(request, runtime, name, loaded)), media_type=JSON)


def _of_the_server(runtime: Runtime) -> ServerProps:
    return ServerProps(
        role="router",
        default_generation_settings=GenerationSettings(params=None, n_ctx=0),
        total_slots=0,
        model_alias="corral",
        model_path="none",
        build_info=_build(runtime),
    )


async def _of_a_model(
    request: Request[Any, Any, Any], runtime: Runtime, typed: str, loaded: list[LoadedModel]
) -> ServerProps:
    try:
        record = await models_of(request).get(read_name(without_selector(typed)))
    except ModelNotFound as error:
        raise ApiError(404, f"model '{typed}' not found", code=error.code, param="model") from error
    metadata = await runtime.catalog.readable_metadata(record)
    capabilities = await runtime.catalog.capabilities(record)
    options = resolve_options(record.parameters)
    running = next((one.info for one in loaded if one.record.digest == record.digest), None)
    known = completed(record, metadata)
    n_ctx = options.context.num_ctx or known.context_length or 0
    if running is not None:
        n_ctx = running.most_tokens(options.context.num_ctx) or 0
    params = _params(options.sampling) | {"n_keep": options.context.num_keep}
    return ServerProps(
        default_generation_settings=GenerationSettings(params=params, n_ctx=n_ctx),
        total_slots=1 if running is None else running.parallel,
        model_alias=record.name.short,
        model_ftype=known.quantization,
        model_path=record.name.full,
        modalities=Modalities(vision="vision" in capabilities, audio="audio" in capabilities),
        chat_template=runtime.catalog.template(record, metadata),
        bos_token=metadata.bos_text if metadata is not None else "",
        eos_token=metadata.eos_text if metadata is not None else "",
        build_info=_build(runtime),
        is_sleeping=running is None,
    )


def _params(sampling: SamplingParams) -> dict[str, Any]:
    """By llama-server's names."""
    params: dict[str, Any] = msgspec.structs.asdict(sampling)
    most = params.pop("num_predict")
    params["n_predict"] = params["max_tokens"] = -1 if most is None else most
    params["seed"] = -1 if params["seed"] is None else params["seed"]
    return params


def _build(runtime: Runtime) -> str:
    return f"corral-{runtime.version}"
