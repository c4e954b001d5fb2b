"""Selects the files of a folder that make up a checkpoint in safetensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from corral.core.models.digests import Digest, digest_of

__all__ = ("COMPANIONS", "WEIGHTS", "checkpoint_digest", "checkpoint_in", "checkpoint_paths", "matching")

WEIGHTS = "model*.safetensors"
"""The pattern of the files with its tensors, in the folder and below it, as in Ollama."""

COMPANIONS = ("*.json", "*/*.json", "chat_template.jinja", "tokenizer.model", "*/tokenizer.model")
"""The patterns of the files that belong to it: its settings, and its tokenizer."""

_FOR_AN_ENGINE = ("genai_config.json", "*.onnx", "onnx/*.onnx")


def checkpoint_paths(paths: Iterable[str]) -> Sequence[str]:
    """Those of the paths in a folder, with ``/`` between parts, that make up its checkpoint; empty if it has none, or
    if it has a model that an engine runs as it is."""
    known = [path for path in paths if path.count("/") < 2]
    weights = [path for path in known if _fits(path, WEIGHTS)]
    if not weights or "config.json" not in known or any(_fits(path, one) for path in known for one in _FOR_AN_ENGINE):
        return ()
    patterns = (WEIGHTS, f"*/{WEIGHTS}", *COMPANIONS)
    return [path for pattern in patterns for path in sorted(known) if _fits(path, pattern)]


def checkpoint_in(folder: Path) -> Mapping[str, Path]:
    """The files of the checkpoint in a folder, by their names there; empty if there is none. Blocking."""
    found = [*matching(folder, "*"), *matching(folder, "*/*")]
    files = {file.relative_to(folder).as_posix(): file for file in found}
    return {path: files[path] for path in checkpoint_paths(files)}


def checkpoint_digest(weights: Mapping[str, Digest]) -> Digest:
    """The digest of a checkpoint's weights, by their names: of its file, or of what ``sha256sum`` prints of
    its files."""
    if len(weights) == 1:
        return next(iter(weights.values()))
    return digest_of("".join(f"{weights[name][7:]}  {name}\n" for name in sorted(weights)).encode())


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder that match, sorted. Blocking."""
    return sorted(file for file in folder.glob(pattern) if file.is_file())


def _fits(path: str, pattern: str) -> bool:
    """Whether each part of the path matches that of the pattern; hidden files match none."""
    parts, wanted = path.split("/"), pattern.split("/")
    same_depth = len(parts) == len(wanted) and not any(part.startswith(".") for part in parts)
    return same_depth and all(fnmatchcase(part, one) for part, one in zip(parts, wanted, strict=True))
