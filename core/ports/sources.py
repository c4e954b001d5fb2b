"""The source port: where models come from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from corral.core.models.digests import Digest
from corral.core.values import Value

__all__ = ("FetchProgress", "ModelSource", "OnProgress", "RemoteFile", "SourceModel")


class FetchProgress(Value, frozen=True, kw_only=True):
    """One line of a long job. `total_bytes` and `completed_bytes` where they are known."""

    status: str
    digest: Digest | None = None
    total_bytes: int | None = None
    completed_bytes: int | None = None


OnProgress = Callable[[FetchProgress], None]


class RemoteFile(Value, frozen=True, kw_only=True):
    """A file of a remote model."""

    file_name: str
    size_bytes: int | None = None
    digest: Digest | None = None


class SourceModel(Value, frozen=True, kw_only=True):
    """What a reference resolved to."""

    reference: str
    files: tuple[RemoteFile, ...]


class ModelSource(Protocol):
    """One scheme of references: ``pypi://``, later registries and hubs."""

    @property
    def scheme(self) -> str: ...

    def resolve(self, reference: str, on_progress: OnProgress) -> AbstractAsyncContextManager[SourceModel]:
        """What the reference holds, for as long as the context lasts; temporary files go with it.

        Raises `SourceError` with the source's own words, `InvalidRequest` for a reference that cannot be meant.
        """
        ...

    def fetch(self, file: RemoteFile, start: int = 0) -> AsyncGenerator[bytes, None]:
        """The file's bytes from `start`, in chunks of at most 1 MiB, while its `resolve` lasts. Raises `SourceError`.

        The caller closes the generator.
        """
        ...
