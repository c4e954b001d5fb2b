"""Models in Hugging Face's repositories: ``hf://OWNER/REPO[:QUANTIZATION, FILE or FOLDER][@REVISION]``."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

from corral.adapters.registries.oci.logins import Logins
from corral.adapters.sources.hugging_face_choice import chosen_folder, chosen_gguf, wanted_type
from corral.adapters.sources.hugging_face_hub import Hub, HubAuthorizing, hub_place
from corral.adapters.sources.web_files import WebFile, open_exchange, read_web_file
from corral.adapters.sources.web_settings import HuggingFaceSettings
from corral.core.errors import InvalidRequest, SourceError
from corral.core.ports.sources import FetchProgress, OnProgress, RemoteFile, SourceModel
from corral.core.values import Value

__all__ = ("HuggingFaceSource",)

_SCHEME = "hf"
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_WANTED = r"[A-Za-z0-9_][^\x00-\x1f\x7f@\\:?#%]{0,511}"
_REFERENCE = re.compile(
    rf"hf://(?:(?:hf\.co|huggingface\.co)/)?(?P<repository>{_SEGMENT}(?:/{_SEGMENT})?)"
    rf"(?::(?P<wanted>{_WANTED}))?(?:@(?P<revision>[A-Za-z0-9_][A-Za-z0-9_./-]{{0,127}}))?"
)


class _Asked(Value, frozen=True, kw_only=True):
    repository: str
    wanted: str
    revision: str


class HuggingFaceSource:
    """The `ModelSource` of repositories, by the hub's interface for files. `environment` says where the token is."""

    def __init__(
        self, settings: HuggingFaceSettings | None = None, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._settings = settings or HuggingFaceSettings()
        self._environment = environment

    @property
    def scheme(self) -> str:
        return _SCHEME

    def resolve(self, reference: str, on_progress: OnProgress) -> AbstractAsyncContextManager[SourceModel]:
        return self._resolve(reference, on_progress)

    @asynccontextmanager
    async def _resolve(self, reference: str, on_progress: OnProgress) -> AsyncIterator[SourceModel]:
        asked = _asked(reference)
        endpoint, place = hub_place(self._settings, self._environment)
        authorizing = HubAuthorizing(Logins(self._settings.for_connections(), self._environment))
        async with open_exchange(self._settings, "sources.hf", authorizing) as exchange:
            hub = Hub(exchange, endpoint, place)
            revision = await hub.revision(asked.repository, asked.revision)
            files = await hub.files(revision)
            folder, kind, chosen = None, None, chosen_gguf(files, asked.wanted, asked.repository)
            if not chosen:
                kind = wanted_type(files, asked.wanted)
                folder, chosen = chosen_folder(files, "" if kind else asked.wanted, asked.repository)
                if kind and not any(file.path.endswith(".safetensors") for file in chosen):
                    raise SourceError(
                        f"{asked.repository} has no GGUF files, and its ONNX model cannot be quantized to {kind}",
                        "leave the type out",
                    )
            on_progress(FetchProgress(status=f"pulling {reference}"))
            yield SourceModel(
                reference=reference,
                name=(folder or asked.repository).rpartition("/")[2],
                quantize=kind or "",
                files=tuple(
                    WebFile(
                        file_name=file.path.rpartition("/")[2],
                        path=None if folder is None else file.path.removeprefix(folder).lstrip("/"),
                        size_bytes=file.size_bytes,
                        digest=file.digest,
                        exchange=exchange,
                        place=place,
                        url=hub.address(revision, file.path),
                        what=f"{asked.repository}/{file.path}",
                        is_pinned=True,
                        in_parts=file.size_bytes is not None,
                    )
                    for file in chosen
                ),
            )

    async def fetch(self, file: RemoteFile, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        if not isinstance(file, WebFile):
            raise SourceError(f"{file.file_name} was not resolved by {_SCHEME}://")
        async with aclosing(read_web_file(file, start, end)) as chunks:
            async for chunk in chunks:
                yield chunk


def _asked(reference: str) -> _Asked:
    found = _REFERENCE.fullmatch(reference)
    wanted = (found["wanted"] or "") if found else ""
    if found is None or ".." in (found["revision"] or "") or ".." in wanted.split("/"):
        raise InvalidRequest(
            f"not a repository: {reference[:200]!r}",
            "write hf://OWNER/REPO, hf://OWNER/REPO:QUANTIZATION or hf://OWNER/REPO:FILE, and @REVISION behind it",
        )
    return _Asked(repository=found["repository"], wanted=wanted, revision=found["revision"] or "main")
