"""Requests to a running model: one struct per task, and the structs that they consist of.

`Request` is an open base: an engine plugin subclasses it (repeating ``frozen=True, kw_only=True``) and names
its types in its `EngineSpec`, so that they can cross the process boundary as well.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from corral.core.requests.caller import ANONYMOUS, Caller
from corral.core.requests.messages import Message, Tool
from corral.core.requests.prompts import Prompt
from corral.core.requests.tool_choice import ANY_CHOICE, ToolChoice
from corral.core.values import Value

__all__ = (
    "ChatRequest",
    "CompletionRequest",
    "Constraint",
    "ContextPolicy",
    "EmbedRequest",
    "Request",
    "RerankRequest",
    "SamplingParams",
    "TextRequest",
    "Thinking",
    "ignored_options",
)


class SamplingParams(Value, frozen=True, kw_only=True):
    """How the next token is chosen, and when to stop. Names and defaults are Ollama's, or else llama-server's.

    `temperature` 0 is greedy. With `seed` None, a random seed is drawn. `num_predict` is the most tokens to generate;
    with None, only the context limits them. `repeat_last_n` 0 turns penalties off, -1 looks at the whole context.
    `mirostat` 0 is off, 1 and 2 are its versions. `logit_bias` maps a token id, or a text, to what is added to
    its logit (``-inf`` forbids it).
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    num_predict: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int | str, float], ...] = ()
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    top_n_sigma: float = -1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1


_DEFAULT = SamplingParams()


def ignored_options(sampling: SamplingParams, honoured: Collection[str]) -> tuple[str, ...]:
    """The names of the options that ask for something (they do not have their default value) and are not among those
    that an engine has `honoured`: what it reports as `Prefilled.ignored_options`.
    """
    return tuple(
        name
        for name in SamplingParams.__struct_fields__
        if name not in honoured and getattr(sampling, name) != getattr(_DEFAULT, name)
    )


class ContextPolicy(Value, frozen=True, kw_only=True):
    """The context of one request, in tokens.

    `num_ctx` bounds prompt and answer together (None: as much as the engine has). When an answer reaches it, `shift`
    keeps the first `num_keep` tokens, drops the older half of the rest and continues; without `shift`, or if the
    model's memory cannot shift, the answer ends with ``length``. With `truncate`, a prompt that does not fit loses what
    follows its first `num_keep` tokens in the same way, if `shift` allows it; otherwise it is `PromptTooLong`.
    """

    num_ctx: int | None = None
    num_keep: int = 4
    shift: bool = True
    truncate: bool = False


class Constraint(Value, frozen=True, kw_only=True):
    """A grammar that the visible text must follow: all of an answer but its `Thinking`.

    `source` is its text; that of a ``choice`` is a JSON array of the texts to choose from. `subject` is what the caller
    asked for, for messages. `alternative` is another grammar, which the whole text may follow instead. A text that is
    JSON is complete when the limit of tokens is reached; with `complete`, one that contains JSON is as well.
    """

    kind: Literal["json_schema", "gbnf", "lark", "regex", "choice"]
    source: str
    subject: Literal["format", "tools"] = "format"
    alternative: Constraint | None = None
    complete: bool = False


class Thinking(Value, frozen=True, kw_only=True):
    """What an answer may begin with: thinking between the tags `start` and `end`. Only then comes the visible text.

    `start` is empty if the prompt has already opened the thinking. After `max_tokens` tokens of it, `end` is forced;
    None sets no limit.
    """

    start: str
    end: str
    max_tokens: int | None = None


class Request(Value, frozen=True, kw_only=True):
    """Open base of all requests."""

    caller: Caller = ANONYMOUS


class TextRequest(Request, frozen=True, kw_only=True):
    """What completions and chats have in common.

    `logprobs` is the number of alternatives to report beside each chosen token (0: the chosen one alone), None for no
    log-probabilities. `return_token_ids`: `Finished` contains the ids of prompt and answer.
    """

    sampling: SamplingParams = SamplingParams()
    context: ContextPolicy = ContextPolicy()
    constraint: Constraint | None = None
    logprobs: int | None = None
    return_token_ids: bool = False


class CompletionRequest(TextRequest, frozen=True, kw_only=True):
    """Continue a prompt. `preserved_tokens` are control tokens that must appear in the text.

    `thinking` is None if the answer is not expected to think, or if nothing depends on it: only constraints and limits
    of thinking do. `dropped_tokens` is roughly how many tokens of the prompt are missing from it because it was far too
    long.
    """

    prompt: Prompt
    dropped_tokens: int = 0
    thinking: Thinking | None = None
    preserved_tokens: frozenset[str] = frozenset()


class ChatRequest(TextRequest, frozen=True, kw_only=True):
    """Answer a conversation. For engines that own their template; for others, it becomes a completion.

    `think`: whether the model thinks before it answers, or how hard (``low``, ``medium``, ``high``, ``max``); None
    leaves this to the engine. `thinking_budget` is the most tokens of thinking; None sets no limit.
    `earlier_ids` are the tokens of an exchange that the rendered messages continue. With `suffix`, the answer belongs
    between the last message and it; only templates that have a place for it get one. `template` is a Go template to use
    instead of the model's own. Without `parallel_tool_calls`, one call is wanted at most. With `tool_calls_in_pieces`,
    calls are also reported while they are written (see `Delta`).
    """

    messages: tuple[Message, ...]
    template: str = ""
    earlier_ids: tuple[int, ...] = ()
    suffix: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ANY_CHOICE
    parallel_tool_calls: bool = True
    tool_calls_in_pieces: bool = False
    think: bool | str | None = None
    thinking_budget: int | None = None


class EmbedRequest(Request, frozen=True, kw_only=True):
    """One vector per input, in order. An input that is too long is cut with `truncate`, otherwise `PromptTooLong`."""

    inputs: tuple[Prompt, ...]
    truncate: bool = True
    num_ctx: int | None = None


class RerankRequest(Request, frozen=True, kw_only=True):
    """One score per document, in order: how well it answers the query.

    A document that is too long beside the query is cut with `truncate`, otherwise `PromptTooLong`; a query that leaves
    no room for a document is `PromptTooLong` in any case. Long texts may arrive as ids, with the tokens around them
    that the model adds to every text.
    """

    query: Prompt
    documents: tuple[Prompt, ...]
    truncate: bool = True
    num_ctx: int | None = None
