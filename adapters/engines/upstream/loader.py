"""Opens the addresses of an upstream model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from corral.adapters.engines.upstream.addresses import normal_address
from corral.adapters.engines.upstream.endpoint import Endpoint
from corral.adapters.engines.upstream.model import UpstreamModel
from corral.adapters.engines.upstream.offers import offer_of
from corral.adapters.engines.upstream.refusals import Unavailable
from corral.adapters.engines.upstream.spec import APIS, HostOptions, UpstreamOptions
from corral.core.errors import InvalidModelFile, InvalidRequest, ServerBusy, Unsupported, UpstreamError
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import ModelInfo, Task
from corral.core.ports.upstreams import OfferedModel
from corral.core.specs.engines import LoadRequest

__all__ = ("load", "open_endpoint")

_OLLAMA_CLOUD = "ollama.com"
_EVERY_TASK: frozenset[Task] = frozenset({"chat", "completion", "embedding"})
_EMBEDS: frozenset[Task] = frozenset({"embedding"})


async def load(request: LoadRequest, on_progress: OnLoadProgress) -> UpstreamModel:
    """Returns once one of the addresses has described its model; the others may become available later.

    Raises the error of the last address if none does.
    """
    remote = request.remote
    if remote is None:
        raise InvalidModelFile(f"{request.model} has no remote_host and remote_model", "add it with corral upstream")
    options = msgspec.convert(request.load_options, UpstreamOptions)
    endpoints: list[Endpoint] = []
    try:
        for host in (remote.host, *remote.replicas):
            endpoints.append(await open_endpoint(host, remote.model, remote.api, options))
        offer = await _first_offer(endpoints, remote.model)
    except BaseException:
        await asyncio.gather(*(endpoint.aclose() for endpoint in endpoints))
        raise
    on_progress(1.0)
    embeds_only = "embedding" in offer.capabilities and "completion" not in offer.capabilities
    info = ModelInfo(
        tasks=_EMBEDS if embeds_only else _EVERY_TASK,
        features=frozenset({"logprobs", "tools", "images", "audio"}),
        context_length=offer.context_length,
        parallel=options.max_connections * len(endpoints),
        details={
            "remote host": ", ".join(endpoint.address for endpoint in endpoints),
            "remote model": offer.model,
            "remote api": offer.api,
        },
    )
    return UpstreamModel(info, endpoints)


async def open_endpoint(host: str, model: str, api: str | None, options: UpstreamOptions) -> Endpoint:
    """An endpoint with the settings for this address. Does not connect yet.

    Raises `InvalidRequest`, `SettingsError`, and `Unsupported` for ollama.com: any manifest could
    name it, and users' texts would go there without their consent.
    """
    address = normal_address(host)
    if api is not None and api not in APIS:
        raise InvalidRequest(f"unknown API {api!r}", f"choose one of {', '.join(APIS)}")
    hosts = {normal_address(name): found for name, found in options.hosts.items()}
    if (urlsplit(address).hostname or "").rstrip(".") == _OLLAMA_CLOUD and address not in hosts:
        raise Unsupported(
            f"ollama cloud is disabled: {model} lives at {_OLLAMA_CLOUD}",
            f'to use it, put your key in [engines.upstream.hosts."{address}"]',
        )
    return await Endpoint.open(address, model, api, options, hosts.get(address, HostOptions()))


async def _first_offer(endpoints: Sequence[Endpoint], model: str) -> OfferedModel:
    problem: UpstreamError | ServerBusy | None = None
    for endpoint in endpoints:
        try:
            return await offer_of(endpoint, model)
        except (Unavailable, ServerBusy) as error:
            endpoint.rest()
            problem = error
    assert problem is not None
    raise problem
