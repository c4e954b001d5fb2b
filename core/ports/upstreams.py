"""The upstream port: which models another server has, before one of them becomes a model here."""

from __future__ import annotations

from typing import Protocol

from corral.core.values import Value

__all__ = ("OfferedModel", "UpstreamDirectory")


class OfferedModel(Value, frozen=True, kw_only=True):
    """A model that a server has. `host` is the server's address in its normal form; `model` its own name for it.

    `api` is what the server speaks. Empty and None: the server does not say.
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
    """Asks servers. Connects to the address it is given and to no other."""

    async def find(self, host: str, model: str | None = None, api: str | None = None) -> OfferedModel:
        """The model of that name, or the only one there is. `api` None: found out.

        Raises `UpstreamError` where nobody answers, and where there is no such model or none was named of several,
        listing what there is; `InvalidRequest` for an address or `api` that is none.
        """
        ...
