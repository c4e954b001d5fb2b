"""Remembers which model a reference was pulled as, so that ``corral run pypi://…`` pulls it once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from corral.core.malformed import MALFORMED
from corral.core.models import ModelRecord

__all__ = ("ReferenceBook",)


class _Entry(msgspec.Struct, frozen=True):
    name: str
    digest: str


class ReferenceBook:
    """``$XDG_CACHE_HOME/corral/references.json``. Losing it costs another pull, nothing else; it never raises."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        cache = environment.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self._path = Path(cache) / "corral" / "references.json"

    def find(self, reference: str, records: Sequence[ModelRecord]) -> ModelRecord | None:
        """The model that the reference was pulled as, while it is in the store under that name, unchanged."""
        entry = self._read().get(reference)
        if entry is None:
            return None
        found = [record for record in records if record.name.short == entry.name and record.digest == entry.digest]
        return found[0] if found else None

    def remember(self, reference: str, record: ModelRecord) -> None:
        entries = self._read() | {reference: _Entry(record.name.short, record.digest)}
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._path.parent, delete=False) as file:
                file.write(msgspec.json.format(msgspec.json.encode(entries)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, self._path)

    def _read(self) -> dict[str, _Entry]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Entry])
        except (OSError, *MALFORMED):
            return {}
