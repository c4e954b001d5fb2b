"""Remembers which model was made from a reference, a path or another model.

So ``corral run`` fetches or imports it only once, and commands know what they have made themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from corral.api.cli.files import replace_file
from corral.core.malformed import MALFORMED

__all__ = ("FetchedModels",)


class _Entry(msgspec.Struct, frozen=True):
    name: str
    digest: str
    seal: str = ""


class FetchedModels:
    """``$XDG_CACHE_HOME/corral/references.json``. Losing it only costs another pull, or a question. Never raises."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        cache = environment.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self._path = Path(cache) / "corral" / "references.json"

    def find(self, reference: str, models: Mapping[str, str], seal: str = "") -> str | None:
        """The name of the model that was made from the reference, if it is still there, unchanged.

        `models` are the digests of the models that are there, by name.
        `seal` describes the state of what the reference leads to, if that can change: None if it has changed since.
        """
        entry = self._read().get(reference)
        if entry is None or entry.seal != seal:
            return None
        return entry.name if models.get(entry.name) == entry.digest else None

    def seal(self, reference: str, name: str, digest: str) -> str:
        """The seal that was remembered for this model; empty if the reference stands for none, or another one."""
        entry = self._read().get(reference)
        return entry.seal if entry is not None and (entry.name, entry.digest) == (name, digest) else ""

    def remember(self, reference: str, name: str, digest: str, seal: str = "") -> None:
        entries = self._read() | {reference: _Entry(name, digest, seal)}
        with suppress(OSError, UnicodeEncodeError):  # a path may contain bytes that are not text
            replace_file(self._path, msgspec.json.format(msgspec.json.encode(entries)))

    def _read(self) -> dict[str, _Entry]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Entry])
        except (OSError, *MALFORMED):
            return {}
