"""What a new model is created from: `CreateCall`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corral.core.models.digests import Digest
from corral.core.models.names import ModelName
from corral.core.requests.messages import Message
from corral.core.values import Value

__all__ = ("CreateCall", "GivenAdapter", "GivenFiles")

GivenFiles = Mapping[str, Digest | Path]
"""Files by name: a blob of the store, or a file of this machine, which is added to the store."""


class GivenAdapter(Value, frozen=True, kw_only=True):
    """One LoRA adapter, and how strongly it is applied."""

    files: GivenFiles
    scale: float = 1.0


class CreateCall(Value, frozen=True, kw_only=True):
    """A model to create, from the model `base` or from `files`; what is empty stays as it is there.

    `base` is the name or reference of a model, which is pulled if the store does not have it; with `remote_host`, it is
    the name of a model on that server. `files` are weights, and projectors; beside a `base`, projectors alone.
    `adapters` come after those of the base. `parameters` are merged with those of the base, `licenses` appended; all
    else replaces. `info` overrides what the model says about itself, under Ollama's names. `quantize` is a file type:
    weights that are quantized already are only quantized again with `requantize`. Some types need an
    `importance_matrix`.
    """

    name: ModelName
    base: str = ""
    remote_host: str = ""
    files: GivenFiles | None = None
    adapters: tuple[GivenAdapter, ...] = ()
    draft_files: GivenFiles | None = None
    template: str = ""
    system: str = ""
    parameters: Mapping[str, Any] = {}
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    info: Mapping[str, Any] = {}
    quantize: str = ""
    requantize: bool = False
    importance_matrix: Path | None = None
    draft_quantize: str = ""
