"""Describes a model in the store of a server as commands describe one in the store of this machine."""

from __future__ import annotations

from typing import Any

from corral.api.cli.client import ServerClient
from corral.api.cli.output import epoch_of, iso_time
from corral.core.errors import ModelNotFound

__all__ = ("record_on_server",)


def record_on_server(server: ServerClient, name: str) -> dict[str, Any]:
    """The fields that `print_record` prints. Raises `ModelNotFound`, and what the server reports."""
    models = server.call("GET", "/api/tags")["models"]
    listed = next((model for model in models if model["name"].lower() == name.lower()), None)
    if listed is None:
        raise ModelNotFound(f"the server at {server.address.url} has no model '{name}' any more")
    shown = server.call("POST", "/api/show", {"model": name})
    return {
        "name": listed["name"],
        "digest": f"sha256:{listed['digest']}",
        "format": listed["details"]["format"],
        "quantization": listed["details"]["quantization_level"],
        "size_bytes": listed["size"],
        "remote_host": listed.get("remote_host"),
        "remote_model": listed.get("remote_model"),
        "modified_at": iso_time(epoch_of(listed["modified_at"])),
        "files": shown["corral"]["files"],
    }
