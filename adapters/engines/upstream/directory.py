"""The `UpstreamDirectory`: asks servers for their models, with the keys that the settings have for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from corral.adapters.engines.upstream.spec import SPEC, UpstreamOptions
from corral.core.errors import EngineNotInstalled
from corral.core.ports.upstreams import OfferedModel
from corral.core.wording.pip_lines import install_line

__all__ = ("ServerDirectory",)


class ServerDirectory:
    """`settings` is the section ``[engines.upstream]``, not decoded. The HTTP client is imported when it is needed."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._options = msgspec.convert(settings, UpstreamOptions)

    async def find(self, host: str, model: str | None = None, api: str | None = None) -> OfferedModel:
        try:
            from corral.adapters.engines.upstream.loader import open_endpoint
            from corral.adapters.engines.upstream.offers import offer_of
        except ImportError as error:
            raise EngineNotInstalled(
                f"the {SPEC.name} engine cannot be imported: {error}", install_line(SPEC)
            ) from error
        endpoint = await open_endpoint(host, model or "", api, self._options)
        try:
            return await offer_of(endpoint, model)
        finally:
            await endpoint.aclose()
