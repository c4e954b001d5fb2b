"""Makes the token masks of one model's requests, in a thread of its own: a grammar may take seconds to compile.

The vocabulary is read and llguidance imported when the first constraint comes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from corral.core.errors import ErrorInfo, Unsupported
from corral.core.pip_lines import pip_line
from corral.core.ports.inference import ConstraintMask, MaskFactory, ModelInfo, OpenTokenizer, Tokenizer
from corral.core.requests import Constraint, Request
from corral.core.step_loop import error_info

__all__ = ("Masked", "Masking")

_REQUIREMENT = "llguidance>=1.9,<2"


class Masked:
    """What became of a request's constraint: a mask, or what is wrong."""

    __slots__ = ("mask", "request", "request_id")

    def __init__(self, request_id: int, request: Request, mask: ConstraintMask | ErrorInfo) -> None:
        self.request_id = request_id
        self.request = request
        self.mask = mask


class Masking:
    """One thread, started when it is first needed. `done` is called in it; what has not begun at `close` never does."""

    def __init__(self, info: ModelInfo, tokenizer: Tokenizer | None, done: Callable[[Masked], None]) -> None:
        self._able = "constraints" in info.features
        self._tokenizer = tokenizer
        self._done = done
        self._thread: ThreadPoolExecutor | None = None
        self._factory: MaskFactory | None = None

    def begin(self, request_id: int, request: Request, constraint: Constraint) -> Callable[[], object]:
        """`done` will be called with it, unless `close` comes first, or what this returns is called before its turn."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="constraints")
        return self._thread.submit(self._make, request_id, request, constraint).cancel

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _make(self, request_id: int, request: Request, constraint: Constraint) -> None:
        mask: ConstraintMask | ErrorInfo
        try:
            if self._factory is None:
                self._factory = self._open()
            mask = self._factory(constraint)
        except BaseException as error:  # a panic of native code is no Exception
            mask = error_info(error)
        self._done(Masked(request_id, request, mask))

    def _open(self) -> MaskFactory:
        if not self._able or not hasattr(self._tokenizer, "vocabulary"):
            raise Unsupported("this model's engine cannot hold an answer to a format or grammar")
        try:
            from corral.adapters.constraints.masks import GrammarMasks
        except ImportError as error:
            raise Unsupported(f"formats and grammars need llguidance: {error}", pip_line(_REQUIREMENT)) from error
        return GrammarMasks(cast(OpenTokenizer, self._tokenizer).vocabulary())
