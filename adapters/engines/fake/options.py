"""The load options of the fake engine."""

from __future__ import annotations

import msgspec

__all__ = ("FakeLoadOptions",)


class FakeLoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a fake model, and its failures.

    `answer` is the answer to everything; without it, made-up words of a length that depends on the prompt. `*_after`
    count the tokens generated since loading: `fail_after` fails one request, `raise_after` breaks a step, `hang_after`
    never returns from one, `crash_after` kills the process. `infinite_vectors` makes embeddings that JSON cannot
    represent. Without `cuts_inputs`, an input to embed that is too long is refused even if it may be cut. With
    `longest_token_bytes`, texts are refused because of their size, as if no token were longer.
    """

    num_ctx: int = 4096
    parallel: int = 8
    max_prefill_tokens: int = 64
    dimensions: int = 16
    memory_bytes: int = 1 << 20
    answer: str | None = None
    step_delay_s: float = 0.0
    load_delay_s: float = 0.0
    hang_on_load: bool = False
    fail_on_load: str | None = None
    crash_on_load: bool = False
    fail_after: int | None = None
    raise_after: int | None = None
    hang_after: int | None = None
    crash_after: int | None = None
    infinite_vectors: bool = False
    cuts_inputs: bool = True
    longest_token_bytes: int | None = None
