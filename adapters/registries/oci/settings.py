"""The settings of HTTP registries, ``[registries.oci]``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ("OciRegistrySettings",)


class OciRegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How registries are reached, and where logins and keys are. Times are in seconds."""

    insecure: Annotated[
        tuple[str, ...], Meta(description="Registries, as `HOST` or `HOST:PORT`, that are reached without TLS.")
    ] = ()
    ca_file: Annotated[
        str, Meta(description="A PEM file of certificate authorities to trust besides the system's; empty means none.")
    ] = ""
    connect_timeout_s: Annotated[float, Meta(description="Longest wait for a connection.", gt=0)] = 10.0
    stall_timeout_s: Annotated[
        float, Meta(description="Longest wait for the next byte of a transfer, which then starts again there.", gt=0)
    ] = 30.0
    commit_timeout_s: Annotated[
        float, Meta(description="Longest wait for a registry to check a blob that was sent.", gt=0)
    ] = 900.0
    user_agent: Annotated[
        str, Meta(description="The `User-Agent` of requests; empty means `corral/VERSION`.", pattern=r"^[ -~]*$")
    ] = ""
    upload_chunk_bytes: Annotated[
        int,
        Meta(
            description="The size of the pieces in which blobs are sent; up to two of them per transfer are in memory.",
            ge=64 * 1024,
            le=1024 * 1024 * 1024,
        ),
    ] = 8 * 1024 * 1024
    credentials_file: Annotated[
        str, Meta(description="Where `corral login` keeps logins; empty means `credentials.json` beside the settings.")
    ] = ""
    ollama_key: Annotated[
        str, Meta(description="The key that identifies this machine to Ollama's registry; made at its first use.")
    ] = "~/.ollama/id_ed25519"
