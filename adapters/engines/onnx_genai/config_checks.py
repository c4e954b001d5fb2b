"""Which settings of a ``genai_config.json`` may reach ONNX Runtime: a model is data, and must not bring code or paths.

The library accepts session options from the file that load native code (``custom_ops_library``) or write files
(``enable_profiling``, anything that ends in a path), and opens any file that is named.
"""

from __future__ import annotations

import json
import re
from typing import Any

from corral.core.errors import InvalidModelFile, StorageError
from corral.core.models.paths import path_parts

__all__ = ("check_config",)

_SESSION_OPTIONS = frozenset(
    {
        "disable_cpu_ep_fallback", "disable_quant_qdq", "enable_cpu_mem_arena", "enable_mem_pattern",
        "enable_quant_qdq_cleanup", "graph_optimization_level", "inter_op_num_threads", "intra_op_num_threads",
        "log_id", "log_severity_level", "log_verbosity_level", "provider_options", "session.disable_prepacking",
        "session.inter_op.allow_spinning", "session.intra_op.allow_spinning", "use_env_allocators",
    }
)  # fmt: skip
_PLACES = re.compile("path|file|dir|lib|cache", re.IGNORECASE)


def check_config(data: bytes) -> None:
    """Raises `InvalidModelFile` for a setting that is not allowed, and for anything but a JSON object."""
    try:
        config = json.loads(data, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(f"it is malformed: {error}", "download the model again") from error
    if not isinstance(config, dict):
        raise InvalidModelFile("it is not a JSON object", "download the model again")
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            for key, inner in value.items():
                _check(key, inner)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # The library uses both values of a duplicate key, while a dict would only show the last one.
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _check(key: str, value: Any) -> None:
    if key in ("session_options", "run_options"):
        for name in value if isinstance(value, dict) else ():
            if name not in _SESSION_OPTIONS:
                raise _refused(f"{key}.{name}")
    elif key == "provider_options":
        for provider in value if isinstance(value, list) else [value]:
            for options in provider.values() if isinstance(provider, dict) else ():
                for name in options if isinstance(options, dict) else ():
                    if _PLACES.search(name):
                        raise _refused(f"provider_options.{name}")
    elif key in ("custom_ops_library", "enable_profiling"):
        raise _refused(key)
    elif "filename" in key and isinstance(value, str):
        try:
            path_parts(value)
        except StorageError as error:
            raise InvalidModelFile(f"{key}: {error.message}", "a model's files must be inside its folder") from error


def _refused(setting: str) -> InvalidModelFile:
    return InvalidModelFile(
        f"{setting} is not allowed in a model: it could run code or reach files outside of the model",
        "remove it from the file, and import the folder again",
    )
