"""The types that weights can be quantized to: llama.cpp's names of its recipes (`llama_ftype` in llama.h)."""

from __future__ import annotations

from enum import StrEnum

from corral.core.errors import InvalidRequest

__all__ = ("NEEDS_MATRIX", "QuantizationType", "missing_matrix", "needs_matrix", "quantization_type")


class QuantizationType(StrEnum):
    """From the largest to the smallest; the last is for mixtures of experts. A recipe may keep some tensors in another
    type.
    """

    F32 = "F32"
    BF16 = "BF16"
    F16 = "F16"
    Q8_0 = "Q8_0"
    Q6_K = "Q6_K"
    Q5_1 = "Q5_1"
    Q5_K_M = "Q5_K_M"
    Q5_K_S = "Q5_K_S"
    Q5_0 = "Q5_0"
    Q4_1 = "Q4_1"
    Q4_K_M = "Q4_K_M"
    Q4_K_S = "Q4_K_S"
    Q4_0 = "Q4_0"
    IQ4_NL = "IQ4_NL"
    IQ4_XS = "IQ4_XS"
    Q3_K_L = "Q3_K_L"
    Q3_K_M = "Q3_K_M"
    IQ3_M = "IQ3_M"
    IQ3_S = "IQ3_S"
    Q3_K_S = "Q3_K_S"
    IQ3_XS = "IQ3_XS"
    IQ3_XXS = "IQ3_XXS"
    Q2_K = "Q2_K"
    Q2_K_S = "Q2_K_S"
    IQ2_M = "IQ2_M"
    IQ2_S = "IQ2_S"
    IQ2_XS = "IQ2_XS"
    IQ2_XXS = "IQ2_XXS"
    Q2_0 = "Q2_0"
    TQ2_0 = "TQ2_0"
    IQ1_M = "IQ1_M"
    TQ1_0 = "TQ1_0"
    IQ1_S = "IQ1_S"
    Q1_0 = "Q1_0"
    MXFP4_MOE = "MXFP4_MOE"


NEEDS_MATRIX = frozenset(
    {
        QuantizationType.IQ1_S,
        QuantizationType.IQ1_M,
        QuantizationType.IQ2_XXS,
        QuantizationType.IQ2_XS,
        QuantizationType.IQ2_S,
        QuantizationType.IQ2_M,
        QuantizationType.Q2_K_S,
    }
)
"""Types that llama.cpp refuses to make without an importance matrix, since the result would be useless."""

_NEED_MATRIX_IF_WIDE = frozenset({QuantizationType.IQ3_XXS, QuantizationType.IQ3_XS})
_BLOCK_WEIGHTS = 256

_SHORT = {"Q5_K": QuantizationType.Q5_K_M, "Q4_K": QuantizationType.Q4_K_M, "Q3_K": QuantizationType.Q3_K_M}


def quantization_type(text: str) -> QuantizationType | None:
    """The type of that name, in any case; ``Q4_K`` means ``Q4_K_M``, as in llama.cpp. None if there is none."""
    name = text.strip().upper()
    if name in _SHORT:
        return _SHORT[name]
    return QuantizationType.__members__.get(name)


def needs_matrix(kind: QuantizationType, width: int | None = None) -> bool:
    """Whether llama.cpp refuses to make this type without an importance matrix.

    `width` is how many weights the rows of a model's layers have. For some types it depends on that, since rows that
    are no multiple of a block get another type; with None, llama.cpp may still refuse those.
    """
    is_wide = width is not None and width % _BLOCK_WEIGHTS == 0
    return kind in NEEDS_MATRIX or (is_wide and kind in _NEED_MATRIX_IF_WIDE)


def missing_matrix(kind: QuantizationType) -> InvalidRequest:
    """The error for weights that cannot be quantized to this type without a matrix."""
    return InvalidRequest(
        f"{kind} needs an importance matrix, without which the model would be useless",
        f"make one with llama-imatrix, and give it for a model that the store has: corral quantize MODEL {kind} "
        "--imatrix FILE; or choose another type",
    )
