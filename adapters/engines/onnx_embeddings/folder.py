"""The folder of a sentence encoder: which file is the model, and its settings for pooling and lengths.

The files are sentence-transformers' (``modules.json``, ``1_Pooling/config.json``, ``sentence_bert_config.json``) and
transformers' (``config.json``, ``tokenizer_config.json``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from corral.core.errors import InvalidModelFile
from corral.core.malformed import MALFORMED
from corral.core.specs.engines import LoadRequest

__all__ = ("EncoderFolder", "open_folder")

_log = logging.getLogger(__name__)

_SETTINGS_LIMIT_BYTES = 16 * 1024 * 1024
_UNBOUNDED_TOKENS = 10**9  # transformers writes 10**30 for "no limit"

# In the order in which sentence-transformers concatenates them if a model has several.
_POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
# Their positions begin after that of the padding token, so that the table of positions is longer than the longest text.
_OFFSET_POSITIONS = frozenset({"camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"})


class EncoderFolder(msgspec.Struct, frozen=True, kw_only=True):
    """`poolings` are concatenated; empty if no file says. `max_tokens` is the largest number of tokens in an input,
    None if unknown.

    `more_modules` are steps after the transformer that are neither pooling nor normalisation. If it `ranks`, it is a
    cross-encoder, and its graph gives a score. If it `may_rank`, no file says that it makes vectors.
    """

    model: str
    weights: Path
    tokenizer: Path
    weights_bytes: int
    poolings: tuple[str, ...]
    normalise: bool
    max_tokens: int | None
    vocabulary_size: int | None
    more_modules: tuple[str, ...]
    ranks: bool
    may_rank: bool


def open_folder(request: LoadRequest) -> EncoderFolder:
    """Raises `InvalidModelFile` if something is missing from the folder, or if its settings make no sense."""
    files = {file.name or "": Path(file.path) for file in request.files}
    models = [(name, path) for name, path in files.items() if name.endswith(".onnx")]
    if len(models) != 1:
        found = ", ".join(name for name, _ in models) or "none"
        raise InvalidModelFile(f"model {request.model!r} needs one .onnx file, found: {found}")
    if "tokenizer.json" not in files:
        raise InvalidModelFile(f"model {request.model!r} has no tokenizer.json", "import a folder that has one")
    modules = _modules(files, request.model)
    poolings = [path for kind, path in modules if kind == "Pooling"] or ["1_Pooling"]
    pooling = _settings(files, f"{poolings[0]}/config.json", request.model)
    config = _settings(files, "config.json", request.model)
    return EncoderFolder(
        model=request.model,
        weights=models[0][1],
        tokenizer=files["tokenizer.json"],
        weights_bytes=sum(Path(file.path).stat().st_size for file in request.files if file.role == "weights"),
        poolings=_poolings(pooling, request.model),
        normalise=any(kind == "Normalize" for kind, _ in modules),
        max_tokens=_max_tokens(files, config, request.model),
        vocabulary_size=_count(config.get("vocab_size")),
        more_modules=tuple(kind for kind, _ in modules if kind not in ("Transformer", "Pooling", "Normalize")),
        ranks=not modules and _classifies(config),
        may_rank=not (modules or pooling),
    )


def _classifies(config: Mapping[str, Any]) -> bool:
    kinds = config.get("architectures")
    return isinstance(kinds, list) and any(str(kind).endswith("ForSequenceClassification") for kind in kinds)


def _modules(files: Mapping[str, Path], model: str) -> list[tuple[str, str]]:
    """Kind and folder of each step."""
    if "modules.json" not in files:
        return []
    found = _decoded(files["modules.json"], list[dict[str, Any]], model)
    return [(str(step.get("type", "")).rpartition(".")[2], str(step.get("path", ""))) for step in found]


def _poolings(settings: Mapping[str, Any], model: str) -> tuple[str, ...]:
    named = settings.get("pooling_mode")
    chosen = tuple(name for name, key in _POOLINGS.items() if settings.get(key) is True or named == name)
    strange = [key for key in settings if key.startswith("pooling_mode_") and settings[key] is True]
    if set(strange) - set(_POOLINGS.values()) or (settings and not chosen):
        raise InvalidModelFile(
            f"model {model!r} has an unsupported pooling mode: {', '.join(strange) or named or 'none'}",
            f"supported: {', '.join(_POOLINGS)}",
        )
    return chosen


def _max_tokens(files: Mapping[str, Path], config: Mapping[str, Any], model: str) -> int | None:
    stated = _count(_settings(files, "sentence_bert_config.json", model).get("max_seq_length"))
    if stated is None:
        stated = _count(_settings(files, "tokenizer_config.json", model).get("model_max_length"))
    positions = _count(config.get("max_position_embeddings"))
    if positions is not None and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= (_count(config.get("pad_token_id")) or 0) + 1
    return min((count for count in (stated, positions) if count is not None and count > 0), default=None)


def _settings(files: Mapping[str, Path], path: str, model: str) -> dict[str, Any]:
    return _decoded(files[path], dict[str, Any], model) if path in files else {}


def _decoded(path: Path, kind: type[Any], model: str) -> Any:
    try:
        if path.stat().st_size > _SETTINGS_LIMIT_BYTES:
            raise InvalidModelFile(f"model {model!r}: {path.name} is larger than {_SETTINGS_LIMIT_BYTES} bytes")
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, *MALFORMED) as error:
        raise InvalidModelFile(f"model {model!r}: {path.name} cannot be read: {error}") from error


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value < _UNBOUNDED_TOKENS else None
