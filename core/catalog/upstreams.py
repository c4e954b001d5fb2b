"""Describes a model that runs on other servers: no weights, only where it lives."""

from __future__ import annotations

from collections.abc import Sequence

from corral.core.errors import InvalidRequest
from corral.core.models.model import Model, RemoteModel
from corral.core.ports.upstreams import OfferedModel, UpstreamDirectory

__all__ = ("find_upstream", "upstream_model")

_BARE_CAPABILITIES = ("completion",)


async def find_upstream(
    directory: UpstreamDirectory | None,
    hosts: Sequence[str],
    *,
    model: str | None,
    api: str | None,
    capabilities: Sequence[str],
) -> Model:
    """What `ModelCatalog.add_upstream` adds. Raises as it does."""
    if directory is None or not hosts:
        raise InvalidRequest("no server address was given", "give its address, http://HOST:PORT")
    offers = [await directory.find(hosts[0], model, api)]
    offers += [await directory.find(host, offers[0].model, api) for host in hosts[1:]]
    return upstream_model(offers, api=api, capabilities=capabilities)


def upstream_model(offers: Sequence[OfferedModel], *, api: str | None, capabilities: Sequence[str]) -> Model:
    """`offers` is the model at each of its addresses, the main one first. `api`: what they speak, if that was stated.

    Without `capabilities`, it has those that its server reports, or completion if it reports none.
    """
    first = offers[0]
    return Model(
        family=first.family,
        families=(first.family,) if first.family else (),
        parameter_size=first.parameter_size,
        quantization=first.quantization,
        context_length=first.context_length,
        embedding_length=first.embedding_length,
        capabilities=tuple(capabilities) or first.capabilities or _BARE_CAPABILITIES,
        remote=RemoteModel(
            host=first.host,
            model=first.model,
            replicas=tuple(dict.fromkeys(offer.host for offer in offers[1:] if offer.host != first.host)),
            api=api,
        ),
    )
