"""Pulls and pushes models, through a server or in this process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any, Protocol

from corral.api.cli.client import ServerClient
from corral.api.library import Corral
from corral.core.errors import EngineError, ModelNotFound, SourceError
from corral.core.models.names import parse_name
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("LocalTransfers", "ServerTransfers", "Transfers")


class Transfers(Protocol):
    """Where models are pulled to and pushed from. Methods raise `CorralError`s."""

    def models(self) -> Mapping[str, str]:
        """The digests of the models that are there, by name."""
        ...

    def pull(self, reference: str, name: str | None, on_progress: OnProgress, *, insecure: bool) -> str:
        """Returns the model's name."""
        ...

    def push(
        self, model: str, reference: str | None, on_progress: OnProgress, *, manifest_format: str | None, insecure: bool
    ) -> str:
        """Returns the digest of the manifest in the registry."""
        ...


class LocalTransfers:
    """Works on the store of this process."""

    def __init__(self, corral: Corral) -> None:
        self._corral = corral

    def models(self) -> Mapping[str, str]:
        return {record.name.short: record.digest for record in self._corral.list()}

    def pull(self, reference: str, name: str | None, on_progress: OnProgress, *, insecure: bool) -> str:
        record = self._corral.pull(reference, name=name, insecure=insecure, on_progress=on_progress)
        return record.name.short

    def push(
        self, model: str, reference: str | None, on_progress: OnProgress, *, manifest_format: str | None, insecure: bool
    ) -> str:
        return self._corral.push(
            model, reference, manifest_format=manifest_format, insecure=insecure, on_progress=on_progress
        )


class ServerTransfers:
    """Works on the store of a Corral server."""

    def __init__(self, server: ServerClient) -> None:
        self._server = server

    def models(self) -> Mapping[str, str]:
        found = self._server.call("GET", "/api/tags")["models"]
        return {model["name"]: f"sha256:{model['digest']}" for model in found}

    def pull(self, reference: str, name: str | None, on_progress: OnProgress, *, insecure: bool) -> str:
        body = {"model": reference, "insecure": insecure} | ({} if name is None else {"destination": name})
        last = self._follow("/api/pull", body, on_progress)
        return str(last.get("model") or parse_name(name or reference).short)

    def push(
        self, model: str, reference: str | None, on_progress: OnProgress, *, manifest_format: str | None, insecure: bool
    ) -> str:
        more = {"destination": reference, "format": manifest_format}
        body = {"model": model, "insecure": insecure} | {key: text for key, text in more.items() if text is not None}
        try:
            return str(self._follow("/api/push", body, on_progress).get("manifest", ""))
        except EngineError as error:  # its status does not say that the model is missing
            if parse_name(model).short in self.models():
                raise
            raise ModelNotFound(error.message) from error

    def _follow(self, path: str, body: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        """The last event."""
        event: dict[str, Any] = {}
        with closing(self._server.stream(path, body)) as events:
            for event in events:
                on_progress(
                    FetchProgress(
                        status=str(event.get("status", "")),
                        total_bytes=event.get("total"),
                        completed_bytes=event.get("completed"),
                    )
                )
        if event.get("status") != "success":
            raise SourceError(f"the server at {self._server.address.url} closed the connection before it was done")
        return event
