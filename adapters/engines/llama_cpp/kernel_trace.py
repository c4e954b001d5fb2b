"""Records what the matrix products of a decode compute, flash attention included, bit by bit: the place where rows can
depend on each other.

Logits are no good witness. What one product computes is rounded for the next one (to eight bits, or to F16), so that
nine differences in ten are gone before they reach a logit, and show in another token instead.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from typing import Any

import llama_cpp as C

__all__ = ("KernelTrace", "TracedRow")

TracedRow = dict[tuple[str, int], int]
"""For each product of a graph, by its name and which of that name it is, a hash of one token's part of the result."""

_PRODUCTS = (b"MUL_MAT", b"MUL_MAT_ID", b"FLASH_ATTN_EXT")
_SCORES = "kq-"
_FLOAT_BYTES = 4


def _function(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments)((name, C.llama_cpp._lib))


_tensor = ctypes.c_void_p
_name = _function("ggml_get_name", ctypes.c_char_p, _tensor)
_operation = _function("ggml_op_desc", ctypes.c_char_p, _tensor)
_row_count = _function("ggml_nrows", ctypes.c_int64, _tensor)
_dimensions = _function("ggml_n_dims", ctypes.c_int, _tensor)
_size_bytes = _function("ggml_nbytes", ctypes.c_size_t, _tensor)
_read = _function("ggml_backend_tensor_get", None, _tensor, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)


class KernelTrace:
    """Give `callback` to a context as its `observer`; it must outlive the context."""

    def __init__(self) -> None:
        self.callback = C.ggml_backend_sched_eval_callback(self._evaluated)
        self._rows: list[TracedRow] | None = None
        self._position = 0
        self._one_stream = True
        self._seen = Counter[str]()

    def record(
        self, decode: Callable[[], int], tokens: int, position: int, *, one_stream: bool
    ) -> list[TracedRow] | None:
        """What `decode` computes for each of its tokens, which are consecutive ones of one stream, the first at
        `position`, or all at `position` of streams of their own. None if it fails.
        """
        self._rows = [{} for _ in range(tokens)]
        self._position = position
        self._one_stream = one_stream
        self._seen.clear()
        try:
            return self._rows if decode() == 0 else None
        finally:
            self._rows = None

    def _evaluated(self, tensor: int, asked: bool, _: Any) -> bool:
        rows = self._rows
        if rows is None:
            return not asked
        if asked:
            return _operation(tensor) in _PRODUCTS
        size, count = _size_bytes(tensor), _row_count(tensor)
        if count % len(rows) == 0:  # otherwise it is computed for the tokens with logits only
            self._note(tensor, rows, size, count)
        return True

    def _note(self, tensor: int, rows: list[TracedRow], size: int, count: int) -> None:
        name = _name(tensor).decode("utf-8", "replace")
        key = (name, self._seen[name])
        self._seen[name] += 1
        data = ctypes.create_string_buffer(size)
        _read(tensor, data, 0, size)
        view = memoryview(data)
        width = size // count
        each = count // len(rows)  # one row per token, or one per token and head
        by_head = self._one_stream and _dimensions(tensor) > 2 and _operation(tensor) == _PRODUCTS[0]
        for index, row in enumerate(rows):
            places = range(index, count, len(rows)) if by_head else range(index * each, (index + 1) * each)
            used = width
            if name.startswith(_SCORES):  # scores of later cells are masked
                used = min(width, (self._position + (index if self._one_stream else 0) + 1) * _FLOAT_BYTES)
            row[key] = hash(b"".join(view[place * width : place * width + used] for place in places))
