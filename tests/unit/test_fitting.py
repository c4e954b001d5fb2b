"""Chats and prompts that are longer than the context: what is left out, and at what cost."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from corral.adapters.engine_kit.admission import admitted, shortened
from corral.adapters.runners.texts import characters_of, without_middle
from corral.core.errors import InvalidRequest, PromptTooLong
from corral.core.generation.fitting import FittingChat, fitted
from corral.core.generation.prompting import completion_of
from corral.core.generation.rendering import FormatInThreads
from corral.core.ports.chat import RenderedChat
from corral.core.ports.running import ModelInfo
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message
from corral.core.requests.outputs import Delta, Finished, Output, Started, Usage
from corral.core.requests.prompts import Prompt, TextPart, TokensPart, prompt_text
from corral.core.requests.requests import ChatRequest, CompletionRequest, ContextPolicy, Request, SamplingParams

_SAMPLING = SamplingParams()


class Counted:
    """A chat format that counts its renderings: every message takes as many bytes as its content, and two more."""

    def __init__(self) -> None:
        self.renders = 0

    def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
        self.renders += 1
        text = "".join(f"{message.role[0]}{message.content};" for message in request.messages)
        return RenderedChat(prompt=(TextPart(text=text, parse_special=True),))


class Bytes:
    """A model whose tokens are bytes, and which refuses what does not fit."""

    alive = True

    def __init__(self, num_ctx: int) -> None:
        self.info = ModelInfo(
            tasks=frozenset({"completion"}), features=frozenset({"tokenize", "shift"}), context_length=num_ctx
        )
        self.num_ctx = num_ctx
        self.counted = 0
        self.answered: list[str] = []

    async def run(self, request: Request) -> AsyncGenerator[Output, None]:
        assert isinstance(request, CompletionRequest)
        text = prompt_text(request.prompt)
        if len(text) >= self.num_ctx and not request.context.truncate:
            raise PromptTooLong("too long")
        self.answered.append(text)
        yield Started(prompt_tokens=len(text))
        yield Delta(text="yes", token_count=1)
        yield Finished(reason="stop", usage=Usage())

    async def tokenize(
        self, prompts: Sequence[Prompt], *, most: int | None = None, cut: bool = False
    ) -> list[tuple[int, ...]]:
        self.counted += len(prompts)
        return [tuple(prompt_text(prompt).encode()) for prompt in prompts]

    async def detokenize(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()

    async def pieces(self, ids: Sequence[int]) -> list[bytes]:
        return [bytes((one,)) for one in ids]

    async def aclose(self) -> None:
        pass


async def answer(
    chat_format: Counted,
    model: Bytes,
    messages: Iterable[Message],
    sampling: SamplingParams = _SAMPLING,
    **policy: bool,
) -> list[Output]:
    context = ContextPolicy(**{"truncate": True} | policy)
    request = ChatRequest(messages=tuple(messages), context=context, sampling=sampling)
    with ThreadPoolExecutor(1) as threads:
        chat = FittingChat(request, model, FormatInThreads(chat_format, threads))
        whole = await chat.whole()
        first = model.run(completion_of(request, whole, truncate=not chat.can_shrink and context.truncate))
        outputs = fitted(chat, first, lambda less: model.run(completion_of(request, less, truncate=True)))
        return [output async for output in outputs]


def conversation(draw: random.Random, count: int) -> list[Message]:
    roles = ["user", "assistant", "user", "assistant", "system", "tool"]
    turns = [Message(role=draw.choice(roles), content="x" * draw.randrange(60)) for _ in range(count)]
    return [*turns, Message(role="user", content="last")]


def cut_from_the_front(messages: Sequence[Message], num_ctx: int) -> tuple[str, int]:
    """What dropping messages one at a time ends with: the text, and how many were dropped."""
    for start in range(len(messages)):
        if start and messages[start - 1].role == "system":
            continue
        left_out = [message for message in messages[:start] if message.role != "system"]
        kept = [*(message for message in messages[:start] if message.role == "system"), *messages[start:]]
        text = "".join(f"{message.role[0]}{message.content};" for message in kept)
        if len(text) < num_ctx or start == len(messages) - 1:
            return text, len(left_out)
    return text, len(left_out)


@pytest.mark.parametrize("seed", range(40))
def test_the_cut_is_the_one_that_dropping_one_at_a_time_finds(seed: int) -> None:
    """System messages and the last message stay; of the others, as few of the oldest as possible are dropped, at the
    cost of log2(n) + 2 renderings and one count each.
    """
    draw = random.Random(seed)
    messages = conversation(draw, draw.randrange(1, 64))
    num_ctx = draw.randrange(8, 1200)
    chat_format, model = Counted(), Bytes(num_ctx)
    outputs = asyncio.run(answer(chat_format, model, messages))
    text, dropped = cut_from_the_front(messages, num_ctx)
    assert model.answered == [text]
    last = outputs[-1]
    assert isinstance(last, Finished)
    assert last.dropped_messages == dropped
    assert chat_format.renders <= math.log2(len(messages)) + 2
    assert model.counted <= chat_format.renders


@pytest.mark.parametrize(("num_predict", "room"), [(-1, 24), (5, 5), (80, 24), (0, 0)])
@pytest.mark.parametrize("can_shift", [False, True])
def test_an_answer_that_cannot_shift_the_context_gets_room(num_predict: int, room: int, can_shift: bool) -> None:
    """A cut prompt leaves it a quarter of the context, or as much as it wants: otherwise it would end at once."""
    model = Bytes(100)
    if not can_shift:
        model.info = msgspec.structs.replace(model.info, features=frozenset({"tokenize"}))
    sampling = SamplingParams(num_predict=num_predict)
    messages = [Message(role="user", content="x") for _ in range(100)]
    asyncio.run(answer(Counted(), model, messages, sampling))
    assert len(model.answered[0]) == (99 - (0 if can_shift else room)) // 3 * 3


class Alternating(Counted):
    """A format that wants the user first, and then the assistant and the user in turns, as many templates do."""

    def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
        for place, message in enumerate(message for message in request.messages if message.role != "system"):
            if (message.role == "user") != (place % 2 == 0):
                raise InvalidRequest("roles must alternate")
        return super().render(request, control)


@pytest.mark.parametrize("longest_token_bytes", [None, 1])
@pytest.mark.parametrize(("count", "num_ctx"), [(3, 32), (9, 20), (9, 33), (9, 57), (8, 40), (21, 80), (20, 80)])
def test_a_template_that_wants_turns_gets_turns(count: int, num_ctx: int, longest_token_bytes: int | None) -> None:
    """If a template refuses a conversation that begins with an answer, the cut is the next one before the user."""
    messages = [Message(role="system", content="s")]
    messages += [Message(role=("user", "assistant")[place % 2], content="x" * 10) for place in range(count)]
    chat_format, model = Alternating(), Bytes(num_ctx)
    model.info = msgspec.structs.replace(model.info, context_length=num_ctx, longest_token_bytes=longest_token_bytes)
    [*_, last] = asyncio.run(answer(chat_format, model, messages))
    fit = (num_ctx - 1 - len("ss;")) // len("uxxxxxxxxxx;")
    kept = max(turns for turns in range(1, count + 1) if turns <= max(fit, 2) and (count - turns) % 2 == 0)
    assert model.answered[0].count("x;") == kept
    assert isinstance(last, Finished)
    assert last.dropped_messages == count - kept


def test_what_fits_is_neither_counted_nor_rendered_twice() -> None:
    """A chat that fits costs one rendering, and no call of the tokenizer."""
    chat_format, model = Counted(), Bytes(1000)
    outputs = asyncio.run(answer(chat_format, model, conversation(random.Random(1), 9)))
    assert (chat_format.renders, model.counted) == (1, 0)
    assert isinstance(outputs[-1], Finished)
    assert outputs[-1].dropped_messages == 0


def test_without_truncate_nothing_is_left_out() -> None:
    """A chat that must not be cut is refused."""
    with pytest.raises(PromptTooLong):
        asyncio.run(answer(Counted(), Bytes(20), conversation(random.Random(1), 9), truncate=False))


def test_what_cannot_fit_because_of_its_size_is_not_even_rendered() -> None:
    """If no token has more than a few bytes, the oldest of many long messages are left out without rendering them."""
    chat_format, model = Counted(), Bytes(100)
    model.info = ModelInfo(
        tasks=model.info.tasks, features=model.info.features, context_length=100, longest_token_bytes=2
    )
    messages = [Message(role="user", content="x" * 40) for _ in range(500)]
    asyncio.run(answer(chat_format, model, messages))
    assert model.answered == ["u" + "x" * 40 + ";" + "u" + "x" * 40 + ";"]
    assert chat_format.renders <= math.log2(6) + 2


@pytest.mark.parametrize("num_keep", [-1, 0, 4, 30, 1000])
@pytest.mark.parametrize("length", [99, 100, 101, 150, 197, 5000])
def test_a_shortened_prompt_keeps_its_beginning_and_its_end(length: int, num_keep: int) -> None:
    """The first ids and the last ones are kept, at least half of what is left of the context is used, and one token
    stays free.
    """
    ids = list(range(length))
    kept = list(shortened(ids, 100, num_keep))
    if length < 100:
        assert kept == ids
        return
    keep = min(max(1, num_keep), 96)
    assert len(kept) < 100
    assert kept[:keep] == ids[:keep]
    assert len(kept) - keep >= (100 - keep) // 2
    assert kept[keep:] == ids[-(len(kept) - keep) :]


def test_the_cut_stays_while_a_prompt_grows() -> None:
    """A shortened prompt is mostly a prefix of the shortened prompt of a longer text, so that it can be reused."""
    ids = list(range(5000))
    cuts = [shortened(ids[:length], 1000, 4)[4] for length in range(1000, 5000)]
    assert len(set(cuts)) <= 10


@pytest.mark.parametrize("shift", [True, False])
def test_a_prompt_is_cut_only_if_the_request_allows_it(shift: bool) -> None:
    """Without `truncate` or without `shift`, a prompt that does not fit is refused; otherwise it says what it lost."""
    request = CompletionRequest(prompt=(), context=ContextPolicy(truncate=True, shift=shift), dropped_tokens=7)
    if not shift:
        with pytest.raises(PromptTooLong):
            admitted(request, range(200), 100)
        return
    prompt = admitted(request, range(200), 100)
    assert prompt.dropped_tokens == 7 + 200 - len(prompt.ids)
    plain = CompletionRequest(prompt=())
    with pytest.raises(PromptTooLong):
        admitted(plain, range(200), 100)
    assert admitted(plain, range(99), 100).dropped_tokens == 0


def test_the_middle_of_a_text_is_left_out_across_parts() -> None:
    """What is left are the first and the last characters, in their parts; ids stay."""
    prompt = (TextPart(text="abcdef", parse_special=True), TokensPart(ids=(1,)), TextPart(text="ghijkl"))
    assert without_middle(prompt, 6) == prompt
    shorter = without_middle(prompt, 2)
    assert shorter == (TextPart(text="ab", parse_special=True), TokensPart(ids=(1,)), TextPart(text="kl"))
    assert characters_of(without_middle(prompt, 5)) == 10
