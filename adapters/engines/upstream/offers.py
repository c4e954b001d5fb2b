"""Finds out which API a server has, and which models."""

from __future__ import annotations

from typing import Any

import msgspec

from corral.adapters.engines.upstream.endpoint import Endpoint
from corral.adapters.engines.upstream.refusals import KeyRefused, Unavailable, UpstreamLoop
from corral.core.errors import InvalidRequest, Unsupported, UpstreamError
from corral.core.malformed import MALFORMED
from corral.core.ports.upstreams import OfferedModel

__all__ = ("known_api", "offer_of", "offers")

_SHOWN_MODELS = 20
_LIMIT_BYTES = 4 * 1024 * 1024
_LENGTHS = 1 << 31
_CAPABILITIES = {"multimodal": "vision"}
"""What llama-server calls what Ollama has another word for."""
_BY_OWNER = {"llamacpp": "llama-server", "vllm": "vllm", "sglang": "sglang"}


class _Version(msgspec.Struct):
    version: str
    corral: str | None = None


class _Meta(msgspec.Struct):
    """An extension of llama-server."""

    n_ctx: int | None = None
    n_embd: int | None = None


class _OpenAIModel(msgspec.Struct):
    id: str
    owned_by: Any = None
    max_model_len: int | None = None
    meta: _Meta | None = None


class _OpenAIModels(msgspec.Struct):
    data: list[_OpenAIModel] | None
    models: Any = None


class _Named(msgspec.Struct):
    name: str


class _Tags(msgspec.Struct):
    models: list[_Named]


class _Details(msgspec.Struct):
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""
    embedding_length: int | None = None


class _Shown(msgspec.Struct):
    details: _Details = msgspec.field(default_factory=_Details)
    model_info: dict[str, Any] | None = None
    capabilities: list[str] | None = None


async def known_api(endpoint: Endpoint) -> str:
    """The API of the server, which is asked once. Raises `UpstreamError` if it is unknown."""
    if endpoint.api is None:
        version = await _asked(endpoint, "/api/version", _Version)
        if version is not None:
            endpoint.api = "ollama" if version.corral is None else "corral"
        else:
            models = await _asked(endpoint, "/v1/models", _OpenAIModels)
            if models is None:
                raise UpstreamError(
                    f"{endpoint.address} offers neither OpenAI's API nor Ollama's",
                    "give the server's address without a path, or name its API with --api",
                )
            endpoint.api = next((_BY_OWNER.get(str(one.owned_by), "openai") for one in models.data or ()), "openai")
    return endpoint.api


async def offers(endpoint: Endpoint) -> list[OfferedModel]:
    """All models of the server; with Ollama's API, only their names. Empty if the server does not list them."""
    api = await known_api(endpoint)
    if api in ("ollama", "corral"):
        tags = await _asked(endpoint, "/api/tags", _Tags)
        return [OfferedModel(host=endpoint.address, model=one.name, api=api) for one in tags.models] if tags else []
    found = await _asked(endpoint, "/v1/models", _OpenAIModels)
    return [
        OfferedModel(
            host=endpoint.address,
            model=one.id,
            api=api,
            capabilities=_listed_capabilities(found.models, one.id),
            context_length=_length(one.max_model_len) or _length(one.meta and one.meta.n_ctx),
            embedding_length=_length(one.meta and one.meta.n_embd),
        )
        for one in (found.data or () if found else ())
    ]


async def offer_of(endpoint: Endpoint, model: str | None) -> OfferedModel:
    """One model; see `UpstreamDirectory.find`. A server that does not list its models is assumed to have it."""
    with endpoint.secrets.kept():
        return await _offer_of(endpoint, model)


async def _offer_of(endpoint: Endpoint, model: str | None) -> OfferedModel:
    listed = await offers(endpoint)
    names = {offer.model: offer for offer in listed}
    if model is None and len(listed) == 1:
        model = listed[0].model
    if model is not None and model not in names and f"{model}:latest" in names:
        model = f"{model}:latest"
    if model is None or (names and model not in names):
        known = ", ".join(list(names)[:_SHOWN_MODELS]) + (" and more" if len(names) > _SHOWN_MODELS else "")
        what = "has several models" if model is None else f"has no model {model!r}"
        raise UpstreamError(
            f"{endpoint.address} {what if names else 'does not tell which models it has'}",
            f"choose one with --model: {known}" if names else "name it with --model",
        )
    if endpoint.secrets.hidden_in(model) != model:
        raise UpstreamError(
            f"{endpoint.address} offers a model whose name contains a key that the settings hold: {model}",
            "this server repeats what it is sent; do not add its models",
        )
    api = await known_api(endpoint)
    offer = names.get(model) or OfferedModel(host=endpoint.address, model=model, api=api)
    return await _shown(endpoint, offer) if api in ("ollama", "corral") else offer


async def _shown(endpoint: Endpoint, offer: OfferedModel) -> OfferedModel:
    data = await endpoint.call("POST", "/api/show", {"model": offer.model}, limit_bytes=_LIMIT_BYTES)
    try:
        shown = msgspec.json.decode(data, type=_Shown)
    except MALFORMED as error:
        raise UpstreamError(f"{endpoint.address}: /api/show sent a malformed answer: {error}") from error
    lengths = {key.rpartition(".")[2]: _length(value) for key, value in (shown.model_info or {}).items()}
    return msgspec.structs.replace(
        offer,
        capabilities=tuple(shown.capabilities or ()),
        family=shown.details.family,
        parameter_size=shown.details.parameter_size,
        quantization=shown.details.quantization_level,
        context_length=lengths.get("context_length"),
        embedding_length=lengths.get("embedding_length") or _length(shown.details.embedding_length),
    )


def _length(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < _LENGTHS else None


def _listed_capabilities(models: Any, name: str) -> tuple[str, ...]:
    """llama-server lists its models in Ollama's shape as well."""
    for one in models if isinstance(models, list) else ():
        if isinstance(one, dict) and one.get("name") == name and isinstance(one.get("capabilities"), list):
            return tuple(_CAPABILITIES.get(text, text) for text in one["capabilities"] if isinstance(text, str))
    return ()


async def _asked(endpoint: Endpoint, path: str, kind: type[Any]) -> Any:
    """None if the server does not have this path, or answers with something else."""
    try:
        return msgspec.json.decode(await endpoint.call("GET", path, limit_bytes=_LIMIT_BYTES), type=kind)
    except MALFORMED:
        return None
    except (KeyRefused, Unavailable, UpstreamLoop):
        raise
    except (UpstreamError, InvalidRequest, Unsupported):
        return None
