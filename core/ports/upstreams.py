"""The upstream port: which models another server has, before one of them becomes a model here."""

from __future__ import annotations

from typing import Protocol

from corral.core.values import Value

__all__ = ("OfferedModel", "UpstreamDirectory")


class OfferedModel(Value, frozen=True, kw_only=True):
    """A model that a server has. `host` is the server's address in its normal form; `model` its own name for it.

    `api` is the API it has. Fields are empty or None if the server does not say.
    """

    host: str
    model: str
    api: str
    capabilities: tuple[str, ...] = ()
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    context_length: int | None = None
    embedding_length: int | None = None


class UpstreamDirectory(Protocol):
    """Asks servers about their models. Connects only to the address it is given."""

    async def find(self, host: str, model: str | None = None, api: str | None = None) -> OfferedModel:
        """The model of that name, or the only one. With `api` None, the API is detected.

        Raises `UpstreamError` if no server answers; and if the model does not exist, or none of several was named,
        listing those available. Raises `InvalidRequest` for an invalid address or `api`.
        """
        ...
