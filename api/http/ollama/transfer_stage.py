"""How far a transfer has come, and what its failure is then called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from corral.api.http.errors import ApiError
from corral.api.http.ollama.dialect import OLLAMA
from corral.core.errors import BlobNotFound, CorralError, DigestMismatch, NotFound, SourceError, StorageError
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("TransferStage",)

_PULLING_MANIFEST = "pulling manifest"
_MISMATCH = re.compile(r'digest mismatch, expected "([^"]*)", got "([^"]*)"')  # Ollama's text for an uploaded blob
_WRONG_BLOB = "digest mismatch, file must be downloaded again: want {}, got {}"


class TransferStage:
    """Passes on progress, except that of success, and remembers how far a transfer has come."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._last = ""

    def report(self, progress: FetchProgress) -> None:
        self._last = progress.status
        if progress.status != "success":  # the last line has more to say
            self._on_progress(progress)

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Gives what happens to a transfer that has begun the texts and the status that Ollama has for it."""
        try:
            yield
        except (NotFound, SourceError, StorageError) as error:
            if not self._last:
                raise
            raise ApiError(500, self._text(error)) from error

    def _text(self, error: CorralError) -> str:
        if self._last != _PULLING_MANIFEST:
            found = _MISMATCH.fullmatch(error.message) if isinstance(error, DigestMismatch) else None
            return _WRONG_BLOB.format(*found.groups()) if found else OLLAMA.text(error)
        is_absent = isinstance(error, NotFound) and not isinstance(error, BlobNotFound)
        return f"pull model manifest: {'file does not exist' if is_absent else OLLAMA.text(error)}"
