"""Selects the files of a folder that make up a checkpoint in safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ("COMPANIONS", "WEIGHTS", "checkpoint_in", "matching")

WEIGHTS = "model*.safetensors"
"""The pattern of the files with its tensors, in the folder and below it, as in Ollama."""

COMPANIONS = ("*.json", "*/*.json", "chat_template.jinja", "tokenizer.model", "*/tokenizer.model")
"""The patterns of the files that belong to it: its settings, and its tokenizer."""

_FOR_AN_ENGINE = ("genai_config.json", "*.onnx", "onnx/*.onnx")


def checkpoint_in(folder: Path) -> Mapping[str, Path]:
    """The files of the checkpoint in a folder, by their names there; empty if it has none, or if it has a model that an
    engine runs as it is. Blocking."""
    weights = matching(folder, WEIGHTS)
    if not weights or not (folder / "config.json").is_file() or any(matching(folder, one) for one in _FOR_AN_ENGINE):
        return {}
    patterns = (f"*/{WEIGHTS}", *COMPANIONS)
    files = [*weights, *(file for pattern in patterns for file in matching(folder, pattern))]
    return {file.relative_to(folder).as_posix(): file for file in files}


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder that match, sorted. Blocking."""
    return sorted(file for file in folder.glob(pattern) if file.is_file())
