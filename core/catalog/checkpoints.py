"""Decides which of the files that a model is created from are a checkpoint, to be converted first: `given_checkpoint`,
and the port that converts it."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from corral.core.catalog.create_calls import GivenFiles
from corral.core.models.digests import Digest
from corral.core.models.names import ModelName
from corral.core.models.quantization_types import QuantizationType
from corral.core.values import Value

__all__ = ("CHECKPOINT_SUFFIX", "CheckpointConverter", "ConvertedCheckpoint", "given_checkpoint", "is_checkpoint")

CHECKPOINT_SUFFIX = ".safetensors"


class ConvertedCheckpoint(Value, frozen=True, kw_only=True):
    """Weights in no store yet: the file `path`, made from a checkpoint whose weights have the digest `source`."""

    path: Path
    source: Digest


class CheckpointConverter(Protocol):
    """Makes weights from a checkpoint."""

    async def width(self, files: GivenFiles) -> int | None:
        """How many weights the rows of its layers have (``hidden_size``); None if its settings are not among the files,
        or do not say. Raises `InvalidModelFile` and `BlobNotFound`."""
        ...

    def converted(
        self,
        name: ModelName,
        files: GivenFiles,
        wanted: QuantizationType | None,
        on_progress: Callable[[float], None],
    ) -> AbstractAsyncContextManager[ConvertedCheckpoint]:
        """The weights that these files of a checkpoint become, which are deleted at the end of the context.

        They are of the type `wanted` if that has 16 or 32 bits, else of the one that is nearest to the checkpoint's.
        `on_progress` gets the share done, 0 to 1. Cancelling it leaves nothing behind. Raises `InvalidRequest` for
        files that are missing, `Unsupported` for an architecture that nobody converts, `InvalidModelFile`,
        `EngineNotInstalled`, `OutOfSpace`, `BlobNotFound`, and `JobFailed`.
        """
        ...

    def converted_adapter(
        self, name: ModelName, files: GivenFiles, weights: Digest, on_progress: Callable[[float], None]
    ) -> AbstractAsyncContextManager[Path]:
        """The LoRA adapter in GGUF that these files become, for weights in the store, deleted at the end of the
        context. Otherwise as `converted`."""
        ...


def is_checkpoint(files: GivenFiles) -> bool:
    """Whether these files have to be converted first."""
    return any(name.endswith(CHECKPOINT_SUFFIX) for name in files)


def given_checkpoint(files: GivenFiles) -> tuple[GivenFiles, GivenFiles]:
    """The files of the checkpoint, by their names in its folder, and the others, which need no conversion."""
    others = {name: file for name, file in files.items() if name.endswith(".gguf")}
    folder = posixpath.commonpath([posixpath.dirname(name) for name in files if name not in others])
    return {posixpath.relpath(name, folder or "."): file for name, file in files.items() if name not in others}, others
