"""The settings of sources that are reached over HTTP: ``[sources.https]``, ``[sources.http]``, ``[sources.hf]``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from corral.adapters.registries.oci.settings import OciRegistrySettings
from corral.core.values import fields_in_common

__all__ = ("HuggingFaceSettings", "WebSourceSettings")


class WebSourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How servers are reached. Times are in seconds."""

    insecure: Annotated[
        tuple[str, ...], Meta(description="Servers, as `HOST` or `HOST:PORT`, that are reached without TLS.")
    ] = ()
    ca_file: Annotated[
        str, Meta(description="A PEM file of certificate authorities to trust besides the system's; empty means none.")
    ] = ""
    connect_timeout_s: Annotated[float, Meta(description="Longest wait for a connection.", gt=0)] = 10.0
    stall_timeout_s: Annotated[
        float, Meta(description="Longest wait for the next byte, after which the rest is asked for again.", gt=0)
    ] = 30.0
    user_agent: Annotated[
        str, Meta(description="The `User-Agent` of requests; empty means `corral/VERSION`.", pattern=r"^[ -~]*$")
    ] = ""
    credentials_file: Annotated[
        str, Meta(description="Where `corral login` keeps logins; empty means `credentials.json` beside the settings.")
    ] = ""

    def for_connections(self) -> OciRegistrySettings:
        """The same, as connections and logins take it."""
        return OciRegistrySettings(**fields_in_common(self, OciRegistrySettings))


class HuggingFaceSettings(WebSourceSettings, frozen=True, kw_only=True):
    """How the hub is reached. Times are in seconds."""

    endpoint: Annotated[
        str, Meta(description="The hub's address; empty means that in `HF_ENDPOINT`, or else `https://huggingface.co`.")
    ] = ""
