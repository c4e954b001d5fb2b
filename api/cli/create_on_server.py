"""Creates a model on a server: uploads the files that it does not have, and follows what it reports."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from corral.api.cli.client import ServerClient
from corral.core.catalog.create_calls import CreateCall, GivenAdapter, GivenFiles
from corral.core.models.digests import Digest
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("create_on_server",)

_CHUNK_BYTES = 1024 * 1024


def create_on_server(server: ServerClient, call: CreateCall, show: OnProgress) -> None:
    """`call` has files of this machine. Raises the error that the server reports."""
    files = {
        field: uploaded
        for field in ("files", "draft_files")
        if (uploaded := _uploaded(server, getattr(call, field), show)) is not None
    }
    for event in server.stream("/api/create", _body(call) | files | _adapters(server, call.adapters, show)):
        show(
            FetchProgress(
                status=str(event.get("status", "")),
                total_bytes=event.get("total"),
                completed_bytes=event.get("completed"),
            )
        )


def _adapters(server: ServerClient, adapters: Sequence[GivenAdapter], show: OnProgress) -> dict[str, Any]:
    """One that is applied as it is goes as Ollama takes it."""
    uploaded = [{"files": _uploaded(server, one.files, show), "scale": one.scale} for one in adapters]
    if [one.scale for one in adapters] == [1.0]:
        return {"adapters": uploaded[0]["files"]}
    return {"adapters": uploaded} if uploaded else {}


def _uploaded(server: ServerClient, files: GivenFiles | None, show: OnProgress) -> dict[str, Digest] | None:
    """The digests of these files, which the server has afterwards."""
    return None if files is None else {name: _upload(server, Path(file), show) for name, file in files.items()}


def _upload(server: ServerClient, file: Path, show: OnProgress) -> Digest:
    size = file.stat().st_size
    total = hashlib.sha256()
    for chunk in _chunks(file, f"hashing {file.name}", show):
        total.update(chunk)
    digest = Digest(f"sha256:{total.hexdigest()}")
    path = f"/api/blobs/{digest}"
    if not server.exists(path):
        server.upload(path, _chunks(file, f"copying file {digest}", show), size)
    return digest


def _chunks(file: Path, status: str, show: OnProgress) -> Iterator[bytes]:
    size, done = file.stat().st_size, 0
    with file.open("rb") as data:
        while chunk := data.read(_CHUNK_BYTES):
            done += len(chunk)
            show(FetchProgress(status=status, total_bytes=size, completed_bytes=done))
            yield chunk


def _body(call: CreateCall) -> dict[str, Any]:
    """The request without the files, under the names of the API."""
    body = {
        "model": call.name.short,
        "from": call.base,
        "template": call.template,
        "system": call.system,
        "parameters": call.parameters,
        "messages": [{"role": one.role, "content": one.content} for one in call.messages],
        "license": list(call.licenses),
        "renderer": call.renderer,
        "parser": call.parser,
        "requires": call.requires,
        "quantize": call.quantize,
        "draft_quantize": call.draft_quantize,
    }
    return {name: msgspec.to_builtins(value) for name, value in body.items() if value}
