"""Refuses quantizations that are impossible, and those that this version cannot do."""

from __future__ import annotations

from corral.core.errors import InvalidRequest, Unsupported
from corral.core.models.model import ModelMetadata

__all__ = ("check_quantization",)

_TYPES = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")
_UNQUANTIZED = ("F16", "BF16", "F32")


def check_quantization(wanted: str, metadata: ModelMetadata | None) -> None:
    """Returns if the weights have this type already. Raises `InvalidRequest` with Ollama's texts, and `Unsupported`."""
    kind = "Q4_K_M" if wanted.upper() == "Q4_K" else wanted.upper()
    if kind not in (*_TYPES, "BF16"):
        raise InvalidRequest(f"unsupported quantization type {kind} - supported types are {', '.join(_TYPES)}")
    if metadata is not None and metadata.file_type == kind:
        return
    if metadata is None or metadata.file_type not in _UNQUANTIZED:
        raise InvalidRequest("quantization is only supported for F16, BF16 and F32 models")
    raise Unsupported(
        "this version cannot quantize a model while it creates it",
        f"quantize the file first: llama-quantize INPUT.gguf OUTPUT.gguf {kind}",
    )
