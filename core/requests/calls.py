"""The arguments of the inference use cases, and the result of `embed`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from corral.core.requests.caller import ANONYMOUS, Caller
from corral.core.requests.messages import Message, Tool
from corral.core.requests.outputs import Vectors
from corral.core.requests.requests import Constraint
from corral.core.requests.tool_choice import ANY_CHOICE, ToolChoice
from corral.core.values import Value

__all__ = (
    "AnswerCall",
    "Call",
    "ChatCall",
    "ContextFile",
    "EmbedCall",
    "EmbedResult",
    "GenerateCall",
    "LoadCall",
    "LoadingCall",
    "RerankCall",
    "RerankResult",
    "UnloadCall",
)


class Call(Value, frozen=True, kw_only=True):
    """What all calls have in common. `model` is the name as the caller typed it; messages repeat it in that form."""

    model: str
    caller: Caller = ANONYMOUS


class LoadingCall(Call, frozen=True, kw_only=True):
    """A call that loads its model if need be.

    `options` are the request's own, decoded from JSON (see `core.requests.options`). `keep_alive_s` None keeps the
    model loaded forever, ``UNSET`` does not change how long it stays. `engine` names an engine; None lets the
    scheduler choose.
    """

    options: Mapping[str, Any] = {}
    keep_alive_s: float | UnsetType | None = UNSET
    engine: str | None = None


class AnswerCall(LoadingCall, frozen=True, kw_only=True):
    """What generate and chat have in common.

    Fields that `TextRequest`s have too, by the same name, are passed on to the model.

    `logprobs`: None for none, otherwise how many alternatives to report beside the chosen token. `shift` None means
    yes. With `truncate`, what does not fit into the context is left out, the oldest messages first; without it,
    `PromptTooLong` is raised. `constraint` is what the answer must follow. `think`: whether the model thinks before it
    answers, or how hard (``low``, ``medium``, ``high``, ``max``); None means yes for models that can. With False, the
    answer's text is not searched for thinking either. `choice` is the index of this answer among several to the same
    call: a seed of the call or of the model is followed by others for them, so that they differ.
    """

    think: bool | str | None = None
    logprobs: int | None = None
    shift: bool | None = None
    truncate: bool = True
    constraint: Constraint | None = None
    choice: int = 0


class ContextFile(Value, frozen=True, kw_only=True):
    """Another file of the repository whose text is completed."""

    name: str
    text: str


class GenerateCall(AnswerCall, frozen=True, kw_only=True):
    """Complete a prompt. Unless `raw`, the model's chat template goes around it, with `system` or the model's own.

    `return_token_ids`: `Finished` carries the ids of prompt and answer. `earlier_ids` are such ids: the prompt
    continues them, and the model's own messages, which they contain, are not repeated. With `suffix`, the answer is
    what belongs between `prompt` and `suffix`; with `insert`, also if that is empty, and then the model sees the
    `files`, and of all of these what fits. An answer that takes longer than `most_decode_s` since its first token ends
    as soon as it has a whole line. `template` is a Go template to use instead of the model's. `prompt_ids` take the
    place of `prompt`: the model gets these tokens, and nothing around them.
    """

    prompt: str
    prompt_ids: tuple[int, ...] = ()
    images: tuple[bytes, ...] = ()
    system: str | None = None
    template: str = ""
    raw: bool = False
    suffix: str = ""
    insert: bool = False
    most_decode_s: float | None = None
    files: tuple[ContextFile, ...] = ()
    earlier_ids: tuple[int, ...] = ()
    return_token_ids: bool = False


class ChatCall(AnswerCall, frozen=True, kw_only=True):
    """Answer a conversation. A trailing assistant message is continued. The model may call `tools`, or as it is told by
    `tool_choice`. Without `parallel_tool_calls`, the answer ends with its first call.

    With `tool_calls_in_pieces`, calls are also reported while the model writes them (see `Delta`). Then a call that the
    model begins and does not complete raises `BrokenToolCall`, since its beginning is out already; otherwise it is left
    in the text.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ANY_CHOICE
    parallel_tool_calls: bool = True
    tool_calls_in_pieces: bool = False


class EmbedCall(LoadingCall, frozen=True, kw_only=True):
    """One vector per input, which is a text or token ids. `normalise` scales it to length 1, after cutting it to the
    first `dimensions` numbers.
    """

    inputs: tuple[str | tuple[int, ...], ...]
    truncate: bool = True
    dimensions: int | None = None
    normalise: bool = True


class RerankCall(LoadingCall, frozen=True, kw_only=True):
    """Score each document by how well it answers the query. With `truncate`, what is too long is cut."""

    query: str
    documents: tuple[str, ...]
    truncate: bool = True


class LoadCall(LoadingCall, frozen=True, kw_only=True):
    """Load a model ahead of its first request. `task` is what it will be used for; None means anything. `think` is
    checked only, and so are `needed_capabilities`, such as ``tools``.
    """

    task: Literal["generate", "chat"] | None = None
    think: bool | str | None = None
    needed_capabilities: tuple[str, ...] = ()


class UnloadCall(Call, frozen=True, kw_only=True):
    """Free a model once its requests have ended."""


class EmbedResult(Value, frozen=True, kw_only=True):
    """The vectors in the order of the inputs, and what they cost. `ignored_options` are those that had no effect."""

    vectors: Vectors
    prompt_tokens: int
    load_ns: int
    total_ns: int
    ignored_options: tuple[str, ...] = ()


class RerankResult(Value, frozen=True, kw_only=True):
    """The scores of `Ranked`, in the order of the documents, and what they cost, as in `EmbedResult`."""

    scores: tuple[float, ...]
    prompt_tokens: int
    load_ns: int
    total_ns: int
    ignored_options: tuple[str, ...] = ()

    @property
    def best_first(self) -> tuple[int, ...]:
        """The indices of the documents, that of the best first; equal ones stay in their order."""
        return tuple(sorted(range(len(self.scores)), key=lambda index: -self.scores[index]))
