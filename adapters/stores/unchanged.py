"""Remembers manifests that were read, and checks with one `stat` whether a look-up would find the same again."""

from __future__ import annotations

import os
from pathlib import Path

from corral.adapters.stores.adoption import Fingerprint, fingerprint_of
from corral.core.lru import SizedLruDict
from corral.core.models.names import ModelName
from corral.core.ports.manifests import StoredManifest
from corral.core.values import Value

__all__ = ("KnownManifest", "KnownManifests", "settled")

_REMEMBERED_BYTES = 8 * 1024 * 1024  # of all manifests together; Ollama's have one or two kilobytes
_OVERHEAD_BYTES = 1024  # of one manifest: its name, paths and digest

_TICK_NS = 100_000_000  # file systems stamp files with a clock that advances at least every 10 ms…
_COARSE_TICK_NS = 2_000_000_000  # …except for those that know only whole seconds, or every other one


def settled(fingerprint: Fingerprint, now_ns: int) -> bool:
    """Whether any later write must give the file another fingerprint.

    This is not so for a file that was written just now: Ollama writes manifests in place, and the clock of the file
    system may not have advanced before the next write.
    """
    coarse = fingerprint.mtime_ns % 1_000_000_000 == 0
    return fingerprint.mtime_ns + (_COARSE_TICK_NS if coarse else _TICK_NS) < now_ns


class KnownManifest(Value, frozen=True, kw_only=True):
    """A manifest as it was read from the file at `path`.

    `preferred` are paths that did not exist then, and that a look-up would follow first: those with the exact spelling
    of the name, if the stored one differs in case. `on_local_disk`: `is_current` needs no thread.
    """

    path: Path
    preferred: tuple[Path, ...]
    fingerprint: Fingerprint
    stored: StoredManifest
    on_local_disk: bool

    def is_current(self) -> bool:
        """Whether looking the name up again would find the same bytes. Blocking."""
        try:
            if fingerprint_of(os.stat(self.path)) != self.fingerprint:
                return False
        except OSError:
            return False
        return not any(os.path.lexists(path) for path in self.preferred)


class KnownManifests:
    """The manifests that were read most recently, by the exact spelling requested. Thread-safe."""

    def __init__(self) -> None:
        self._known: SizedLruDict[tuple[str, ...], KnownManifest] = SizedLruDict(_REMEMBERED_BYTES)

    def get(self, name: ModelName) -> KnownManifest | None:
        return self._known.get(name.parts)

    def put(self, name: ModelName, known: KnownManifest) -> None:
        self._known.put(name.parts, known, len(known.stored.data) + _OVERHEAD_BYTES)
