"""Frames between parent and child, and outputs that wait for a slow reader."""

from __future__ import annotations

import asyncio
import random

import pytest

from corral.adapters.runners.frames import (
    Abort,
    Add,
    FrameReader,
    Log,
    Step,
    down_decoder,
    encode,
    up_decoder,
)
from corral.adapters.runners.mailbox import Mailbox
from corral.adapters.runners.outbox import Outbox, merged
from corral.core.errors import ErrorInfo
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta, Embedded, Finished, Output, Started, TokenLogprob, Usage, Vectors
from corral.core.requests.prompts import TextPart, TokensPart
from corral.core.requests.requests import CompletionRequest, EmbedRequest, Request, SamplingParams

END = Finished(reason="stop", usage=Usage())


class Judge(Request, frozen=True, kw_only=True):
    query: str


class Judged(Output, frozen=True, kw_only=True):
    scores: tuple[float, ...]


def test_outcomes_cross() -> None:
    """Every output and error arrives as it was, vectors as bytes."""
    outcomes: list[tuple[int, Output | ErrorInfo]] = [
        (1, Started(prompt_tokens=3)),
        (1, Delta(text="é", token_count=2, logprobs=(TokenLogprob(token=b"\xff", logprob=-1.0),))),
        (2, Embedded(vectors=Vectors(dimensions=1, float32=b"\1\2\3\4"), prompt_tokens=1)),
        (1, END),
        (3, ErrorInfo(code="x", message="y", remedy="z")),
    ]
    frame = up_decoder().decode(encode(Step(outcomes))[4:])
    assert isinstance(frame, Step)
    assert frame.outcomes == outcomes


def test_requests_cross() -> None:
    """A request arrives as it was, infinite biases included."""
    request = CompletionRequest(
        prompt=(TextPart(text="a", parse_special=True), TokensPart(ids=(1, 2))),
        sampling=SamplingParams(logit_bias=((5, float("-inf")), ("x", 1.0)), stop=("b",)),
        preserved_tokens=frozenset({"<x>"}),
    )
    frame = down_decoder().decode(encode(Add(7, request))[4:])
    assert isinstance(frame, Add)
    assert frame.request == request


def test_types_of_plugins_cross() -> None:
    """Request and output types that a plugin names are decoded as themselves, beside the built-in ones."""
    down = down_decoder([Judge])
    frame = down.decode(encode(Add(1, Judge(query="q")))[4:])
    assert isinstance(frame, Add)
    assert frame.request == Judge(query="q")
    assert isinstance(down.decode(encode(Add(1, EmbedRequest(inputs=())))[4:]), Add)
    step = up_decoder([Judged]).decode(encode(Step([(1, Judged(scores=(0.5,)))]))[4:])
    assert isinstance(step, Step)
    assert step.outcomes == [(1, Judged(scores=(0.5,)))]


@pytest.mark.parametrize("seed", range(20))
def test_frames_however_they_are_cut(seed: int) -> None:
    """Frames of any size arrive complete and in order, however the stream is split."""
    draw = random.Random(seed)
    messages = [draw.randbytes(draw.choice([0, 1, 3, 60, 500])).hex() for _ in range(200)]
    stream = b"".join(encode(Log(10, message)) for message in messages)
    reader, decoder, got = FrameReader(64), up_decoder(), []
    while stream:
        buffer = reader.buffer()
        size = min(len(buffer), draw.randint(1, 100), len(stream))
        buffer[:size], stream = stream[:size], stream[size:]
        for frame in reader.filled(size):
            log = decoder.decode(frame)
            assert isinstance(log, Log)
            got.append(log.message)
    assert got == messages


def test_abort_is_small() -> None:
    """A frame has no field names on the wire."""
    assert len(encode(Abort(1))) < 16


def test_merged_deltas() -> None:
    """Neighbouring deltas are merged; outputs between them keep their place."""
    one = TokenLogprob(token=b"a", logprob=-1.0)
    items = [
        Started(prompt_tokens=1),
        Delta(text="a", token_count=1, logprobs=(one,)),
        Delta(text="b", token_count=2),
        Delta(token_count=1, logprobs=(one,)),
        END,
    ]
    assert merged(items) == [items[0], Delta(text="ab", token_count=4, logprobs=(one, one)), END]
    call = ToolCall(name="time")
    parsed = [Delta(thinking="hm"), Delta(thinking="m", token_count=1), Delta(tool_calls=(call,))]
    assert merged(parsed) == [Delta(thinking="hmm", token_count=1, tool_calls=(call,))]


def test_an_outbox_stays_small() -> None:
    """However much accumulates, each request keeps its text and order, in few items."""
    outbox = Outbox()
    for index in range(1000):
        outbox.add([(request_id, Delta(text=f"{index} ", token_count=1)) for request_id in (1, 2)])
    outbox.add([(1, END)])
    items = outbox.take()
    assert len(items) == 3
    assert [item for request_id, item in items if request_id == 1][-1] == END
    text = "".join(f"{index} " for index in range(1000))
    assert items[0] == (1, Delta(text=text, token_count=1000))
    assert not outbox


def test_a_mailbox() -> None:
    """The reader waits for the first item and gets all available ones, merged; a reader that gives up loses nothing."""

    async def check() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        reader = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.sleep(0)
        for _ in range(600):
            mailbox.put(Delta(text="a", token_count=1))
        mailbox.put(END)
        assert await mailbox.take() == [Delta(text="a" * 600, token_count=600), END]
        reader = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        mailbox.put(END)
        assert await reader == [END]

    asyncio.run(check())
