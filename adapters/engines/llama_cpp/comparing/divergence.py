"""How far the predictions of two models differ on a text.

The text is computed as ``llama-perplexity`` does (tools/perplexity of llama.cpp): in chunks of 512 tokens, each from an
empty memory and with its first token replaced by BOS if the vocabulary begins texts with it; the second half of a chunk
counts. Only one chunk's logits are in memory, and of these only some rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.core.errors import EngineError
from corral.core.values import Value

__all__ = ("CHUNK_TOKENS", "Divergence", "chunks_of", "compare_rows", "measure_divergence")

CHUNK_TOKENS = 512
_ROWS_AT_ONCE = 64

Rows = npt.NDArray[np.float32]


class Divergence(Value, frozen=True, kw_only=True):
    """Sums over `positions`: negative log likelihoods of both models, KL divergences, equal tops."""

    positions: int = 0
    reference_nll: float = 0.0
    candidate_nll: float = 0.0
    kl: float = 0.0
    same_top: int = 0

    def plus(self, other: Divergence) -> Divergence:
        return Divergence(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


def compare_rows(reference: Rows, candidate: Rows, following: Sequence[int]) -> Divergence:
    """Of rows of logits, and the token that follows each."""
    found = Divergence()
    for left, right, token in zip(reference, candidate, following, strict=True):
        p, q = _log_softmax(left), _log_softmax(right)
        found = found.plus(
            Divergence(
                positions=1,
                reference_nll=-float(p[token]),
                candidate_nll=-float(q[token]),
                kl=float(np.dot(np.exp(p), p - q)),
                same_top=int(np.argmax(left) == np.argmax(right)),
            )
        )
    return found


def chunks_of(tokens: Sequence[int], size: int, bos: int | None) -> list[list[int]]:
    """The text in whole chunks; what is left at its end is not used. `bos` takes the place of each first token."""
    whole = [list(tokens[at : at + size]) for at in range(0, len(tokens) - size + 1, size)]
    return whole if bos is None else [[bos, *chunk[1:]] for chunk in whole]


def measure_divergence(
    reference: LlamaContext,
    candidate: LlamaContext,
    chunks: Sequence[Sequence[int]],
    on_chunk: Callable[[Divergence, float], bool],
) -> Divergence:
    """`on_chunk` gets what is known after each chunk, and the share done; it returns whether to go on."""
    batch = Batch(max(map(len, chunks)))
    found = Divergence()
    for number, chunk in enumerate(chunks, 1):
        first = len(chunk) // 2
        for context in (reference, candidate):
            context.clear()
            _decode(context, batch, chunk[:first], 0, wanted=False)
        for start in range(first, len(chunk) - 1, _ROWS_AT_ONCE):
            part = chunk[start : min(start + _ROWS_AT_ONCE, len(chunk) - 1)]
            rows = []
            for context in (reference, candidate):
                _decode(context, batch, part, start, wanted=True)
                rows.append(np.stack([context.logits(row) for row in range(len(part))]))
            found = found.plus(compare_rows(rows[0], rows[1], chunk[start + 1 : start + 1 + len(part)]))
        if not on_chunk(found, number / len(chunks)):
            break
    return found


def _decode(context: LlamaContext, batch: Batch, tokens: Sequence[int], position: int, *, wanted: bool) -> None:
    batch.fill_chunk(tokens, position, 0, last=True)
    if wanted:
        batch.wanted[: len(tokens)] = 1
    code = context.decode(batch)
    if code != 0:
        raise EngineError(f"llama.cpp could not decode the text (code {code})")


def _log_softmax(logits: Rows) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - float(np.max(logits))
    result: npt.NDArray[np.float64] = shifted - np.log(np.sum(np.exp(shifted)))
    return result
