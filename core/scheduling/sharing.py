"""Decides whether a request can share a model that is in memory, or needs it loaded once more."""

from __future__ import annotations

from corral.core.models.digests import Digest
from corral.core.models.model import FileRole, StoredModel
from corral.core.scheduling.engine_choice import Candidate
from corral.core.scheduling.load_options import fits

__all__ = ("FilesKey", "LoadedAs", "files_key")

_NEVER_READ: frozenset[FileRole] = frozenset({"license", "messages", "params", "system"})
"""Roles that only Corral reads, also in a folder."""

FilesKey = tuple[tuple[FileRole, Digest, str | None, float], ...] | Digest


def files_key(record: StoredModel) -> FilesKey:
    """Models with equal keys are the same in memory: the same files in the same roles and, if roles repeat, order;
    adapters with the same scales.

    The names of files count only in a folder. A model that opens no files is identified by its manifest.
    """
    files = [file for file in record.loaded_files if file.role not in _NEVER_READ]
    folder = len(files) > 1
    return tuple((file.role, file.digest, file.path if folder else None, file.scale) for file in files) or record.digest


class LoadedAs:
    """How a model was loaded: its files, its engine, what it was converted to, and its load options."""

    def __init__(self, record: StoredModel, engine: Candidate) -> None:
        self.files = files_key(record)
        self.engine = engine

    def serves(self, files: FilesKey, engine: Candidate) -> bool:
        """Whether a request for these files on this engine can use it: same in everything but the name, and its load
        options serve the request's."""
        mine = self.engine
        return (
            mine.spec is engine.spec
            and mine.match.derive == engine.match.derive
            and self.files == files
            and fits(engine.spec, mine.options, engine.options)
        )

    def same_weights(self, other: LoadedAs) -> bool:
        """Whether both are the same model on the same engine, with whatever options: one replaces the other."""
        return self.engine.spec is other.engine.spec and self.files == other.files
