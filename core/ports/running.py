"""The running-model port: a loaded model that answers requests, and what it can do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from corral.core.requests.outputs import Output
from corral.core.requests.prompts import Prompt
from corral.core.requests.requests import Request
from corral.core.values import Value

if TYPE_CHECKING:
    pass

__all__ = ("ModelInfo", "RunningModel", "Task")

Task = Literal["completion", "chat", "embedding"]


class ModelInfo(Value, frozen=True, kw_only=True):
    """What a loaded model can do: data, because an `isinstance` check does not survive a process boundary.

    `tasks` names the requests it takes. `features` are engine-named abilities ("exact", "shift", "prefix_cache",
    "tokenize", "logprobs", "constraints", …). `context_length` is the most tokens of one request, None where unlimited
    or unknown. `parallel` is how many requests run at once. `memory_bytes` by device ("cpu", "cuda:0"). `process_id` of
    the child, where there is one. `details` are for people: `corral show` and `/api/ps` print them.
    `control_tokens` are the texts that count as control tokens where a prompt's part is parsed with them; None where
    nobody knows. An engine with an `OpenTokenizer` may leave it None: its vocabulary is asked.
    `longest_token_bytes` is the most bytes of text that one token stands for, None where unknown: with it a text that
    is too long for the context by its mere size is refused before anybody looks at it.
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


class RunningModel(Protocol):
    """A model that answers. Made by a `Runner`; whoever made it closes it. Every method is for one event loop."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def alive(self) -> bool:
        """False once the model can no longer answer: closed, died, stalled. It never becomes true again."""
        ...

    def run(self, request: Request) -> AsyncGenerator[Output, None]:
        """The answer. Closing the generator early aborts the request within one step.

        Raises errors of `corral.core.errors` only; `Unsupported` for a request that `info.tasks` does not have.
        A slow reader gets deltas merged, never a queue without bound.
        """
        ...

    async def tokenize(
        self, prompts: Sequence[Prompt], *, most: int | None = None, cut: bool = False
    ) -> list[tuple[int, ...]]:
        """Token ids of each prompt, BOS included as the model wants. `Unsupported` without feature ``tokenize``.

        `most`: nobody needs more ids of a prompt than that. `PromptTooLong` may be raised for a prompt that has more,
        as soon as it is known; with `cut` its ids may end anywhere beyond `most` instead. Cancelling the call ends the
        work for it.
        """
        ...

    async def detokenize(self, ids: Sequence[int]) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD. `Unsupported` without feature ``tokenize``."""
        ...

    async def aclose(self) -> None:
        """Ends every request with `EngineDied`, frees the memory, returns when it is free. Twice is fine."""
        ...
