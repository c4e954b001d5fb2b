"""The folders of a filesystem store."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ("StoreFolders",)


class StoreFolders:
    """The folders of a store. ``blobs`` and ``manifests`` are shared with Ollama, which never looks into ``.corral``.

    `derived` holds the manifests of derived models, `kept` the blobs that they name.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.blobs = self.root / "blobs"
        self.manifests = self.root / "manifests"
        self.own = self.root / ".corral"
        self.derived = self.own / "manifests"
        self.kept = self.own / "kept"
        self.partials = self.own / "partials"
        self.adopted = self.own / "adopted"
        self.metadata = self.own / "metadata"
        self.prefixes = self.own / "prefixes"
        self.scratch = self.own / "tmp"
        self.folders = self.own / "folders"
        self.workspaces = self.own / "work"
        self.pins = self.own / "pins"
        self.claims = self.own / "claims"
        self.holds = self.own / "holds"
        self.quarantine = self.own / "quarantine"

    def __repr__(self) -> str:
        return f"StoreFolders({str(self.root)!r})"
