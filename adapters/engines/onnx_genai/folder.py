"""Finds the model folder for ONNX Runtime GenAI among the files to load, and reads and checks its
``genai_config.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from corral.adapters.engines.onnx_genai.config_checks import check_config
from corral.adapters.engines.onnx_genai.spec import CONFIG_FILE
from corral.core.errors import InvalidModelFile
from corral.core.malformed import MALFORMED
from corral.core.specs.engines import LoadRequest

__all__ = ("ModelFolder", "open_folder")

_MOST_TOKENS = 1 << 24
_LONGEST_CONTEXT = 1 << 30
_NOT_TEXT = ("encoder", "vision", "speech", "embedding")


class ModelFolder(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine must know before anything native opens the folder.

    `model` is its name, for messages. `vocabulary_size` counts logits, padding included. `kv_values_per_token` is over
    all layers. `adapters` are the paths of LoRA files.
    """

    model: str
    path: Path
    model_type: str
    context_length: int
    vocabulary_size: int
    kv_values_per_token: int
    ends: frozenset[int]
    weights_bytes: int
    adapters: tuple[str, ...] = ()


class _Decoder(msgspec.Struct):
    filename: str = "model.onnx"
    head_size: int = 0
    num_hidden_layers: int = 0
    num_key_value_heads: int = 0
    pipeline: Any = None


class _Model(msgspec.Struct):
    type: str
    vocab_size: int
    decoder: _Decoder
    context_length: int = 0
    eos_token_id: int | list[int] = []
    encoder: Any = None
    vision: Any = None
    speech: Any = None
    embedding: Any = None


class _Config(msgspec.Struct):
    model: _Model


def open_folder(request: LoadRequest) -> ModelFolder:
    """Raises `InvalidModelFile` if the folder is incomplete, or if its model is not a text decoder."""
    config_path = next((Path(file.path) for file in request.files if file.name == CONFIG_FILE), None)
    if config_path is None:
        raise InvalidModelFile(f"model {request.model!r} has no {CONFIG_FILE}", "import the whole folder")
    path = config_path.parent
    model = _read(config_path, request.model).model
    for part in _NOT_TEXT:
        if getattr(model, part) is not None:
            raise InvalidModelFile(
                f"model {request.model!r} ({model.type}) has a part called {part!r}; only text decoders are supported"
            )
    if model.decoder.pipeline is None and not (path / model.decoder.filename).is_file():
        raise InvalidModelFile(
            f"model {request.model!r}: {CONFIG_FILE} names {model.decoder.filename}, which is missing"
        )
    if not (path / "tokenizer.json").is_file():
        raise InvalidModelFile(f"model {request.model!r} has no tokenizer.json", "import a folder that has one")
    if not (0 < model.vocab_size <= _MOST_TOKENS and 0 < model.context_length <= _LONGEST_CONTEXT):
        raise InvalidModelFile(
            f"model {request.model!r}: {CONFIG_FILE} needs a vocab_size from 1 to {_MOST_TOKENS} and a context_length "
            f"from 1 to {_LONGEST_CONTEXT}"
        )
    adapters = tuple(file.path for file in request.files if file.role == "adapter")
    if len(adapters) > 1:  # each would replace the one before it
        raise InvalidModelFile(f"model {request.model!r} has {len(adapters)} adapters; one can be applied")
    ends = model.eos_token_id if isinstance(model.eos_token_id, list) else [model.eos_token_id]
    decoder = model.decoder
    return ModelFolder(
        model=request.model,
        path=path,
        model_type=model.type,
        context_length=model.context_length,
        vocabulary_size=model.vocab_size,
        kv_values_per_token=2 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_size,
        ends=frozenset(ends),
        weights_bytes=sum(Path(file.path).stat().st_size for file in request.files if file.role == "weights"),
        adapters=adapters,
    )


def _read(path: Path, model: str) -> _Config:
    try:
        data = path.read_bytes()
        check_config(data)
        return msgspec.json.decode(data, type=_Config)
    except InvalidModelFile as error:
        raise InvalidModelFile(f"model {model!r}: {CONFIG_FILE}: {error.message}", error.remedy) from error
    except (OSError, *MALFORMED) as error:
        raise InvalidModelFile(f"model {model!r}: {CONFIG_FILE} cannot be read: {error}") from error
