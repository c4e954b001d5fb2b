"""The port of a loaded model: it answers requests, and says what it can do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Literal, Protocol

from corral.core.requests.outputs import Output
from corral.core.requests.prompts import Prompt
from corral.core.requests.requests import Request
from corral.core.values import Value

__all__ = ("ModelInfo", "PrefixTier", "RunningModel", "Task")

Task = Literal["completion", "chat", "embedding", "rerank"]


class PrefixTier(Value, frozen=True, kw_only=True):
    """Where computed prefixes of prompts are kept: ``streams`` (the engine's own memory), ``memory`` (of the host) or
    ``disk``. How many there are, the bytes they take, and how many prompts have found theirs there since the model was
    loaded.
    """

    name: Literal["streams", "memory", "disk"]
    entries: int
    size_bytes: int
    hits: int


class ModelInfo(Value, frozen=True, kw_only=True):
    """What a loaded model can do. It is data because an `isinstance` check does not work across processes.

    `tasks` are the kinds of requests it accepts. `features` are abilities, named by the engine ("exact", "shift",
    "prefix_cache", "tokenize", "logprobs", "constraints", …). `context_length` is the largest number of tokens in
    one request; None if unlimited or unknown. `parallel` is how many requests may run at once, including what the
    engine would make room for only when they come. `memory_bytes` is what it takes now, by device ("cpu",
    "cuda:0"). `process_id` is that of the child process, if there is one. `details` are for people: `corral show`
    and `/api/ps` print them. `control_tokens` are the texts that act as control tokens in parts with
    `parse_special`; None if unknown. An engine with an `OpenTokenizer` may leave it None: the runner reads its
    vocabulary. `longest_token_bytes` is the largest number of bytes that one token stands for; None if unknown. It
    allows texts that are far too long for the context to be refused because of their size alone. `prefixes` are the
    tiers in which it keeps computed prefixes, the fastest first; an engine reports them about once per second at most.
    """

    tasks: frozenset[str]
    features: frozenset[str] = frozenset()
    context_length: int | None = None
    parallel: int = 1
    memory_bytes: Mapping[str, int] = {}
    process_id: int | None = None
    details: Mapping[str, str] = {}
    control_tokens: tuple[str, ...] | None = None
    longest_token_bytes: int | None = None
    prefixes: tuple[PrefixTier, ...] = ()

    def most_tokens(self, num_ctx: int | None) -> int | None:
        """The most tokens of a request with this `num_ctx`; None if that is unlimited or unknown."""
        limits = [limit for limit in (num_ctx, self.context_length) if limit is not None]
        return min(limits, default=None)


class RunningModel(Protocol):
    """A loaded model. Created by a `Runner` and closed by the runner's caller. All methods belong to one event loop."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def alive(self) -> bool:
        """False once the model can no longer answer because it was closed, died or stalled.

        It never becomes True again.
        """
        ...

    def run(self, request: Request) -> AsyncGenerator[Output, None]:
        """The answer. Closing the generator early aborts the request within one step.

        Raises only errors of `corral.core.errors`, such as `Unsupported` if `info.tasks` lacks the request's task.
        For a slow reader, deltas are merged, so that no queue grows without bound.
        """
        ...

    async def tokenize(
        self, prompts: Sequence[Prompt], *, most: int | None = None, cut: bool = False
    ) -> list[tuple[int, ...]]:
        """Return the token ids of each prompt, with BOS if the model wants one. Raises `Unsupported` without the
        feature ``tokenize``.

        `most` is the largest number of ids that is useful. If a prompt has more, `PromptTooLong` may be raised as soon
        as this is known; with `cut`, its ids may instead end anywhere beyond `most`. Cancelling the call stops its
        work.
        """
        ...

    async def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; invalid UTF-8 becomes U+FFFD.

        Raises `Unsupported` without the feature ``tokenize``.
        """
        ...

    async def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each id by itself, control tokens as they are spelled. A character may be spread over
        several of them.

        Raises `InvalidRequest` for an id that is not in the vocabulary, `Unsupported` without the feature ``tokenize``.
        """
        ...

    async def aclose(self) -> None:
        """End every request with `EngineDied`, and free the memory before returning. May be called twice."""
        ...
