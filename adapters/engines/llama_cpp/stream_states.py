"""Saved states of streams in a form that contexts with any number of streams can load.

llama.cpp writes a state as (llama-context.cpp, llama-kv-cache.cpp): magic, stream, number of streams; for each stream
of the cache the number of its cells, 0 for all but one, and behind this one the cells. All numbers have 32 bits. A
context accepts only the number of streams that it has itself. Here, a state says that there is one stream, and zeros
follow it: with another number in its head, it is what a context with that many streams has saved.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ("SPARE_BYTES", "fit_state", "portable_state")

_WORD = 4
_HEAD = 3 * _WORD
_STREAMS_AT = 2 * _WORD
SPARE_BYTES = 256 * _WORD
"""Zeros behind a portable state, for the largest number of streams (LLAMA_MAX_SEQ)."""


def portable_state(state: npt.NDArray[np.uint8], stream: int) -> npt.NDArray[np.uint8]:
    """The state of a `stream`, saved with `SPARE_BYTES`, in the portable form. A view of it; its head is changed."""
    skipped = stream * _WORD  # the numbers of cells of the streams before it
    state[skipped : skipped + _HEAD] = state[:_HEAD].copy()
    portable = state[skipped:]
    portable[_STREAMS_AT:_HEAD].view(np.uint32)[0] = 1
    return portable


def fit_state(state: npt.NDArray[np.uint8], streams: int) -> npt.NDArray[np.uint8]:
    """A portable state for a context with this many streams. Changes it in place if it can be written to."""
    fitted = state if state.flags.writeable else state.copy()
    fitted[_STREAMS_AT:_HEAD].view(np.uint32)[0] = streams
    return fitted
