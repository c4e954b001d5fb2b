"""How much memory llama.cpp needs besides the weights: the KV cache and the compute buffers.

Measured (llama.cpp reports them when it creates a context): the buffers hold the larger of two things that are not
needed at the same time, the logits of a decode and the attention scores of a layer, plus a few rows.
"""

from __future__ import annotations

from corral.core.models.model import ModelMetadata

__all__ = (
    "KV_BYTES_PER_VALUE",
    "LARGEST_BATCH",
    "OUTPUTS_PER_STREAM",
    "REMEMBERED_BYTES",
    "SMALLEST_BATCH",
    "batch_tokens",
    "compute_bytes",
    "kv_bytes",
    "projector_bytes",
)

KV_BYTES_PER_VALUE = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q4_0": 18 / 32}
SMALLEST_BATCH, LARGEST_BATCH = 32, 512
OUTPUTS_PER_STREAM = 16
"""So many rows of a stream may have logits in one decode."""
REMEMBERED_BYTES = 64 * 1024 * 1024
"""Vectors of images to keep. A conversation sends its images again with every question."""
_FLOAT = 4
_WIDE_ROWS = 8  # rows of the model's width for each token of a batch
_MASK_BYTES = 6  # per token and cell with flash attention: as float32 and as float16


def batch_tokens(num_batch: int, streams: int) -> int:
    """The number of tokens in the largest batch."""
    return max(streams, SMALLEST_BATCH, min(num_batch, LARGEST_BATCH))


def kv_bytes(metadata: ModelMetadata, tokens: int, kv_cache_type: str) -> int:
    """The size of the KV cache; estimated from the embedding length if the header lacks details."""
    per_token = metadata.kv_bytes_per_token or 4 * metadata.block_count * (metadata.embedding_length or 4096)
    return int(per_token * tokens * KV_BYTES_PER_VALUE[kv_cache_type] / 2)


def projector_bytes(size_bytes: int) -> int:
    """What a projector file of this size takes, with the buffers of the image encoder and remembered images.

    The buffers depend on the resolution: by the sizes of their graphs, 8 % of a LLaVA projector, 25 % of a Gemma 3 one.
    """
    return size_bytes + size_bytes // 4 + REMEMBERED_BYTES if size_bytes else 0


def compute_bytes(
    *,
    num_ctx: int,
    batch: int,
    outputs: int,
    heads: int,
    vocabulary: int,
    width: int,
    windows: bool,
    flash_attention: bool,
) -> int:
    """The compute buffers of one context with streams of `num_ctx` cells. `outputs`: rows of a batch that have logits.
    `windows`: some layers have a sliding window, and need their own mask.
    """
    masks = 2 if windows else 1
    per_cell = _MASK_BYTES * masks if flash_attention else _FLOAT * (heads + masks)
    return max(_FLOAT * outputs * vocabulary, batch * num_ctx * per_cell) + _FLOAT * batch * width * _WIDE_ROWS
