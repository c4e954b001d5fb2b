"""The inference ports: what core calls, `RunningModel`, and what an engine's author writes.

That is a `StepEngine` or a `GeneratorEngine`, which runners turn into a `RunningModel`. A chat-native or remote engine
is one directly.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from corral.core.outputs import EngineOutput, Output
from corral.core.requests import Constraint, Prompt, Request
from corral.core.values import Value

if TYPE_CHECKING:
    from corral.core.engines import EngineSpec, LoadRequest

__all__ = (
    "ConstraintMask",
    "Engine",
    "GeneratorEngine",
    "GradualTokenizer",
    "MaskFactory",
    "ModelInfo",
    "OnLoadProgress",
    "OpenTokenizer",
    "Prepared",
    "PreparingEngine",
    "Runner",
    "RunningModel",
    "StepEngine",
    "Task",
    "TokenMask",
    "Tokenizer",
    "Vocabulary",
)

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


class Tokenizer(Protocol):
    """Thread-safe; called off the step thread; never waits for a step."""

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]: ...

    def decode(self, ids: Sequence[int]) -> bytes: ...


class GradualTokenizer(Tokenizer, Protocol):
    """A tokenizer that takes a long text a piece at a time, so that callers can take turns, and give up."""

    def encode_gradually(
        self, prompt: Prompt, *, most: int | None = None, cut: bool = False
    ) -> Generator[None, None, tuple[int, ...]]:
        """What `encode` gives for one prompt, yielding between pieces of a few milliseconds.

        `most` and `cut` as in `RunningModel.tokenize`.
        """
        ...


class Vocabulary(Value, frozen=True, kw_only=True):
    """Every token of a model, by id: its bytes, and what is special.

    `control` are the ids that are no text (``<|im_end|>``); `ends` those that end an answer.
    """

    pieces: tuple[bytes, ...]
    control: frozenset[int] = frozenset()
    ends: frozenset[int] = frozenset()


class OpenTokenizer(Tokenizer, Protocol):
    """A tokenizer that shows its vocabulary: what constraints need. Its model has the feature ``constraints``."""

    def vocabulary(self) -> Vocabulary:
        """The same value each time; made on first use."""
        ...


class TokenMask(Protocol):
    """Which tokens may come next: a constraint, a thinking budget, forced tokens. Made by the driver."""

    def allowed(self) -> bytes | None:
        """One bit per token id, least significant first; None: all. Asked once before each sampled token."""
        ...

    def accept(self, token_id: int) -> None:
        """Called with every token chosen, in order."""
        ...


class ConstraintMask(TokenMask, Protocol):
    """The mask of one answer that must follow a `Constraint`. Where the grammar is complete, only an end may come.

    Both methods raise `InvalidRequest` where the grammar turns out too complex to be followed.
    """

    @property
    def ignored(self) -> tuple[str, ...]:
        """What the grammar asks for and the mask does not hold the answer to, in words."""
        ...


class MaskFactory(Protocol):
    """Makes the masks of one model. Slow, up to seconds: never called in the thread that steps."""

    def __call__(self, constraint: Constraint) -> ConstraintMask:
        """Raises `InvalidRequest` for a grammar that is wrong, cannot be fulfilled or is too large."""
        ...


class Engine(Protocol):
    """What both engine forms share. One thread owns an engine, except its `tokenizer`."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def tokenizer(self) -> Tokenizer | None: ...

    def close(self) -> None:
        """Free everything. Twice is fine."""
        ...


class StepEngine(Engine, Protocol):
    """An engine that batches. One thread calls everything but `tokenizer`."""

    def add_request(self, request_id: int, request: Request, mask: TokenMask | None) -> None:
        """Take a request in; it is worked on from the next `step`. Ids are unique among unfinished requests.

        Raises errors of ours for a request that cannot run at all (`PromptTooLong`, `Unsupported`, …).
        """
        ...

    def step(self) -> Sequence[tuple[int, EngineOutput]]:
        """One bounded round over all requests, short enough to cancel after. Never raises for one request's fault:

        that request gets `EngineFailed`. After `EngineFinished` or `EngineFailed` an id is free again.
        """
        ...

    def has_unfinished_requests(self) -> bool:
        """False: the runner sleeps until the next `add_request`."""
        ...

    def abort_request(self, request_id: int) -> None:
        """Forget it; no output of it follows. An unknown id does nothing."""
        ...


class Prepared(Protocol):
    """What a `PreparingEngine` made of a request before its turn."""

    def close(self) -> None:
        """Free it: nobody wants it any longer. Not called once the engine has taken it."""
        ...


class PreparingEngine(StepEngine, Protocol):
    """A `StepEngine` that prepares requests beside its steps: for those that `add_request` would take long for.

    Optional: an engine that has no `preparation` gets every request by `add_request`.
    """

    def preparation(self, request: Request) -> Callable[[], Prepared] | None:
        """What is to be done before `add_prepared`; None if `add_request` is quick. At once, in the engine's thread.

        What it returns is called in another thread, several at a time, and raises what `add_request` would.
        """
        ...

    def add_prepared(self, request_id: int, request: Request, prepared: Prepared, mask: TokenMask | None) -> None:
        """As `add_request`, and nothing in it takes long."""
        ...


class GeneratorEngine(Engine, Protocol):
    """An engine that serves one request at a time: the smallest thing to write."""

    def run(self, request: Request, mask: TokenMask | None) -> Generator[EngineOutput | None, None, None]:
        """Outputs as they come; the runner closes the generator to cancel.

        None is "nothing yet": yielded between the parts of long work, so that a cancelled request ends there.
        """
        ...


OnLoadProgress = Callable[[float], None]
"""Called with the share done, 0 to 1."""


class Runner(Protocol):
    """Where a loaded model lives: a thread of this process, a child process, the event loop."""

    @property
    def name(self) -> str: ...

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> RunningModel:
        """Load and wait until it answers. Cancelling the call stops the load and leaves nothing behind.

        `on_progress` is called in the event loop. The engine's own reports come from the thread that loads.

        Raises `EngineNotInstalled`, `InvalidModelFile`, `OutOfMemory`, `LoadFailed`, `EngineDied`, `EngineStalled`.
        """
        ...
