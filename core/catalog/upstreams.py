"""Describes a model that runs on other servers: no weights, only where it lives."""

from __future__ import annotations

from collections.abc import Sequence

from corral.core.models.model import Model, RemoteModel
from corral.core.ports.upstreams import OfferedModel

__all__ = ("upstream_model",)

_BARE_CAPABILITIES = ("completion",)


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
