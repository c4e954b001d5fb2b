"""Fits the saved state of a stream into a context that has another number of streams.

After two words, llama.cpp writes of a KV cache the number of streams, and for each of them the number of its cells,
followed by these unless there are none: all but the saved one are zeros. A model with two kinds of layers (sliding
windows) has two such caches, one after the other, whose lists of cells are the same. Nothing else depends on the number
of streams.
"""

from __future__ import annotations

import struct
from typing import Any

__all__ = ("fitted",)

_WORD = struct.Struct("<I")
_START = 2
_MOST_STREAMS = 256
_CELL_BYTES = 12
"""Each cell is listed with its position, the number of its sequences (one), and the sequence."""


def fitted(state: Any, streams: int) -> Any:
    """The state for a context with so many streams: itself if it has that number. What is not understood is returned
    as it is, and llama.cpp refuses it.
    """
    words = min(memoryview(state).nbytes // _WORD.size, _START + _MOST_STREAMS)
    before = _word(state, _START) if words > _START + 1 else streams
    if before == streams:
        return state
    counts = range(_START + 1, min(_START + 1 + before, words))
    saved = next((at for at in counts if _word(state, at)), None)
    if saved is None:
        return state
    data = bytes(state)
    index, begin = saved - _START - 1, saved * _WORD.size
    head, tail = _WORD.pack(before) + bytes(_WORD.size * index), bytes(_WORD.size * (before - 1 - index))
    cells = data[begin : begin + _WORD.size + _CELL_BYTES * _word(state, saved)]
    bodies = []
    while (end := data.find(tail + head + cells, begin)) >= 0:
        bodies.append(data[begin:end])
        begin = end + len(tail) + len(head)
    bodies.append(data[begin : len(data) - len(tail)])
    after = bytes(_WORD.size * (streams - 1))
    first = data[: _START * _WORD.size]
    return bytearray(first + b"".join(_WORD.pack(streams) + body + after for body in bodies))


def _word(state: Any, at: int) -> int:
    return int(_WORD.unpack_from(state, at * _WORD.size)[0])
