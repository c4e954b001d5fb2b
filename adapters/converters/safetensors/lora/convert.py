"""Converts a LoRA adapter of PEFT into GGUF, for the weights that it will be applied to. Runs as a job, in a separate
process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlunsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from corral.adapters.converters.safetensors.architectures import FAMILIES
from corral.adapters.converters.safetensors.config import Config
from corral.adapters.converters.safetensors.families.decoder import DecoderFamily
from corral.adapters.converters.safetensors.lora.settings import LoraSettings
from corral.adapters.formats.gguf.file_writer import GgufFile
from corral.adapters.formats.gguf.lora import ALPHA
from corral.adapters.formats.gguf.sixteen_bits import to_float32
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.adapters.formats.gguf.writer import NewTensor
from corral.adapters.formats.safetensors.tensors import SafetensorsFiles
from corral.core.errors import InvalidModelFile, InvalidRequest, Unsupported
from corral.core.malformed import MALFORMED
from corral.core.regular_files import read_regular
from corral.core.specs.converters import ConvertedFile, ConvertRequest, ConvertResult

__all__ = ("convert_adapter",)

_FILE = "adapter.gguf"
_CONFIG = "adapter_config.json"
_CONFIG_LIMIT_BYTES = 16 * 1024 * 1024
_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?:embedding_)?(?P<half>[AB])(?:\.default)?(?:\.weight)?"
)
_LAYER = re.compile(r"(?:model\.)?layers\.(?P<number>\d+)\.(?P<part>.+)")
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}")
_HUB = "huggingface.co"
_EMBEDDING = "token_embd"
_COUNTS = {
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
}
"""What of a configuration tells how rows are rearranged, and the keys of GGUF for it."""


class _Pair(NamedTuple):
    """The factors of a module, by their names in the file. `target` is the part of the GGUF (``attn_q``), and `name`
    its tensor."""

    module: str
    target: str
    name: str
    a: str
    b: str


def convert_adapter(request: ConvertRequest, on_progress: Callable[[float], None]) -> ConvertResult:
    """Writes ``adapter.gguf`` into the request's folder, on disk when this returns. Memory is bounded by one pair.

    The request's files are the adapter's (role ``adapter`` or ``config``), by their names in its folder, and the
    weights in GGUF that it is for. Raises `Unsupported` for an adapter that no engine applies and for weights of an
    architecture whose adapters are not converted, `InvalidRequest` for files that are missing, `InvalidModelFile`,
    `OutOfSpace` and `StorageError`.
    """
    files = {file.name: Path(file.path) for file in request.files if file.role != "weights" and file.name is not None}
    weights = next(Path(file.path) for file in request.files if file.role == "weights")
    settings = LoraSettings(_config(files))
    names = [name for name in files if name.endswith(".safetensors")]
    if len(names) != 1:
        raise InvalidRequest(f"an adapter is one file in safetensors, and these are {len(names)}", "give its folder")
    with GgufTensors(weights) as base, SafetensorsFiles({names[0]: files[names[0]]}) as tensors:
        family, config = _family(base.pairs)
        shapes = {name: base.shape(name) for name in base.names}
        pairs = sorted(_pairs(tensors, family), key=lambda pair: pair.name)
        planned = [tensor for pair in pairs for tensor in _planned(tensors, pair, shapes)]
        alpha = settings.factor(pairs[0].module, _rank(tensors, pairs[0])) or settings.alpha
        with GgufFile(Path(request.folder) / _FILE, _keys(family, settings, alpha), planned) as file:
            for number, pair in enumerate(pairs, 1):
                a, b = (_floats(tensors, name) for name in (pair.a, pair.b))
                change = family.rearranging(config, pair.target)
                b = b if change is None else change(b)
                factor = settings.factor(pair.module, b.shape[1]) / alpha
                file.write(f"{pair.name}.lora_a", a.T if pair.target == _EMBEDDING else a)
                file.write(f"{pair.name}.lora_b", b if factor == 1 else b * np.float32(factor))
                on_progress(number / len(pairs))
    return ConvertResult(files=(ConvertedFile(path=_FILE, role="adapter"),), format="gguf")


def _config(files: Mapping[str, Path]) -> Mapping[str, Any]:
    path = files.get(_CONFIG)
    if path is None:
        raise InvalidRequest(f"{_CONFIG} is missing", "give the whole folder of the adapter")
    try:
        return msgspec.json.decode(read_regular(path, _CONFIG_LIMIT_BYTES), type=dict[str, Any])
    except MALFORMED as error:
        raise InvalidModelFile(f"{_CONFIG} is malformed: {error}", "fetch it again") from error
    except OSError as error:
        raise InvalidModelFile(f"{_CONFIG}: {error.strerror or error}") from error


def _family(pairs: Mapping[str, Any]) -> tuple[DecoderFamily, Config]:
    """The family of the weights, and as much of ``config.json`` as tells how it rearranges their rows."""
    architecture = str(pairs.get("general.architecture"))
    known = []
    for target in dict.fromkeys(FAMILIES.values()):
        module, _, name = target.partition(":")
        family = getattr(import_module(module), name)
        if not isinstance(family, DecoderFamily):
            continue
        known.append(family.architecture)
        if family.architecture == architecture:
            counts = {name: pairs.get(f"{architecture}.{key}") for name, key in _COUNTS.items()}
            stated = {name: count for name, count in counts.items() if count is not None}
            return family, Config(stated, "the header of the weights")
    raise Unsupported(
        f"adapters for the architecture {architecture[:100]!r} are not converted",
        f"those for {', '.join(known)} are; convert it with convert_lora_to_gguf.py of llama.cpp",
    )


def _pairs(tensors: SafetensorsFiles, family: DecoderFamily) -> Iterator[_Pair]:
    """Raises `Unsupported` for a tensor that is no factor of a known module, `InvalidModelFile` for half a pair."""
    halves: dict[str, dict[str, str]] = {}
    for name in tensors.names:
        found = _TENSOR.fullmatch(name)
        if found is None:
            kind = "DoRA" if "lora_magnitude_vector" in name else "not a factor of a LoRA"
            raise Unsupported(
                f"the adapter has the tensor {name[:100]!r} ({kind}), which no engine here applies beside the weights",
                "merge the adapter into its model, and create one from that",
            )
        halves.setdefault(found["module"], {})[found["half"]] = name
    if not halves:
        raise InvalidModelFile("the adapter has no tensors", "fetch it again")
    for module, names in halves.items():
        if len(names) != 2:
            raise InvalidModelFile(f"the adapter has only one of two factors of {module[:100]}", "fetch it again")
        target, place = _target(module, family)
        yield _Pair(module, target, f"{place}{target}.weight", names["A"], names["B"])


def _target(module: str, family: DecoderFamily) -> tuple[str, str]:
    """The part of the GGUF that a module is, and what precedes it in names of tensors."""
    layer = _LAYER.fullmatch(module)
    if layer is not None and layer["part"] in family.layer_parts:
        return family.layer_parts[layer["part"]], f"blk.{int(layer['number'])}."
    outer = {**family.outer_parts, "lm_head": "output"}.get(module.removeprefix("model."))
    if layer is None and outer is not None:
        return outer, ""
    raise Unsupported(f"the adapter changes {module[:100]}, which {family.architecture} is not known to have")


def _planned(
    tensors: SafetensorsFiles, pair: _Pair, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[NewTensor, NewTensor]:
    """Both factors in F32. Raises `InvalidModelFile` if they do not fit each other and the weights."""
    a, b = tensors.shape(pair.a), tensors.shape(pair.b)
    wanted = shapes.get(pair.name)
    if wanted is None:
        raise InvalidModelFile(
            f"the adapter does not fit the weights: it changes {pair.module[:100]}, and they have no {pair.name}",
            "an adapter works only with the model that it was trained for",
        )
    made = (b[0], a[1]) if len(a) == len(b) == 2 else ()
    if pair.target == _EMBEDDING and made:
        made = made[::-1]
    if made != wanted or a[0] != b[1] or not a[0]:
        raise InvalidModelFile(
            f"the adapter does not fit the weights: its factors of {pair.module[:100]} have the shapes {list(a)} and "
            f"{list(b)}, but {pair.name} has {list(wanted)}",
            "an adapter works only with the model that it was trained for",
        )
    first = a[::-1] if pair.target != _EMBEDDING else a
    return (
        NewTensor(f"{pair.name}.lora_a", "F32", first, 4 * a[0] * a[1]),
        NewTensor(f"{pair.name}.lora_b", "F32", b[::-1], 4 * b[0] * b[1]),
    )


def _rank(tensors: SafetensorsFiles, pair: _Pair) -> int:
    return tensors.shape(pair.a)[0]


def _floats(tensors: SafetensorsFiles, name: str) -> NDArray[np.float32]:
    found: NDArray[np.float32] = to_float32(tensors.dtype(name), tensors.numbers(name))
    return found


def _keys(family: DecoderFamily, settings: LoraSettings, alpha: float) -> dict[str, Any]:
    base = {}
    if settings.base:
        base = {"general.base_model.count": 1, "general.base_model.0.name": settings.base.rpartition("/")[2][:100]}
    if _REPOSITORY.fullmatch(settings.base):
        base["general.base_model.0.repo_url"] = urlunsplit(("https", _HUB, settings.base, "", ""))
    return {
        "general.architecture": family.architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        ALPHA: alpha,
        **base,
    }
