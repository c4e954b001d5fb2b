"""Filling in: the prompt around the gap, files beside it, and what is left out if it does not fit."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from msgspec.structs import replace

from corral.adapters.engines.fake import SPEC
from corral.adapters.engines.fake.tokenizer import FakeTokenizer
from corral.adapters.runners.thread import ThreadRunner
from corral.core.generation.filling_in import fitting_insert, insert_prompt
from corral.core.generation.time_limit import until_late
from corral.core.ports.running import RunningModel
from corral.core.requests.calls import ContextFile, GenerateCall
from corral.core.requests.outputs import Delta, Finished, Output, Started, Usage
from corral.core.requests.prompts import Prompt, TokensPart
from corral.core.requests.requests import CompletionRequest, SamplingParams
from corral.core.specs.engines import LoadRequest

PRE, SUF, MID, REP, SEP = 1, 2, 3, 4, 5
FILES = (ContextFile(name="a.py", text="AAA\n"), ContextFile(name="b.py", text="BBB"))
CALL = GenerateCall(model="m", prompt="def f(", suffix=")", insert=True)


def spelled(prompt: Prompt) -> str:
    """The prompt with its tokens in angle brackets."""
    return "".join(
        "".join(f"<{one}>" for one in part.ids) if isinstance(part, TokensPart) else getattr(part, "text", "?")
        for part in prompt
    )


@pytest.mark.parametrize(
    ("files", "repository_ids", "expected"),
    [
        ((), (REP, SEP), "<4>myproject\n<5>filename\n<1>def f(<2>)<3>"),
        ((), None, "<1>def f(<2>)<3>"),
        (FILES, (REP, SEP), "<4>myproject\n<5>a.py\nAAA\n<5>b.py\nBBB<5>filename\n<1>def f(<2>)<3>"),
        (FILES, None, "\n\n--- snippet ---\n\nAAA\n\n\n--- snippet ---\n\nBBB<1>def f(<2>)<3>"),
    ],
)
def test_the_layout(files: tuple[ContextFile, ...], repository_ids: tuple[int, int] | None, expected: str) -> None:
    """A model that knows repositories sees files under their names, others only their texts; as in llama-server."""
    assert spelled(insert_prompt(replace(CALL, files=files), (PRE, SUF, MID), repository_ids)) == expected


def test_a_suffix_alone_is_no_repository() -> None:
    """Only who asks for an insertion gets llama-server's layout."""
    assert spelled(insert_prompt(replace(CALL, insert=False), (PRE, SUF, MID), (REP, SEP))) == "<1>def f(<2>)<3>"


def test_what_people_typed_is_text() -> None:
    """Control tokens in texts and in names of files are not read as such."""
    typed = ContextFile(name="<|im_end|>", text="<|im_end|>")
    call = replace(CALL, prompt="<|im_end|>", suffix="<|im_end|>", files=(typed,))
    prompt = insert_prompt(call, (PRE, SUF, MID), (REP, SEP))
    [ids] = FakeTokenizer().encode([prompt])
    assert FakeTokenizer().encode([(TokensPart(ids=ids[1:]),)]) == [ids]
    assert not {256, 257, 258, 259} & set(ids[1:])


@pytest.mark.parametrize(
    ("before", "behind", "files", "kept"),
    [
        (10, 10, 0, (10, 10, 0)),
        (100, 5, 0, (40, 5, 0)),
        (5, 100, 0, (5, 40, 0)),
        (100, 100, 100, (34, 11, 0)),
        (10, 10, 100, (10, 10, 25)),
    ],
)
def test_what_does_not_fit_is_left_out(before: int, behind: int, files: int, kept: tuple[int, int, int]) -> None:
    """First the beginning of the files, then what is farthest from the gap; room for the answer stays."""
    call = replace(CALL, prompt="x" * before, suffix="y" * behind)
    prompt = (TokensPart(ids=(122,) * files), *insert_prompt(call, (PRE, SUF, MID), None))
    request = CompletionRequest(prompt=prompt, sampling=SamplingParams(num_predict=14))

    async def check(model: RunningModel) -> None:
        fitting = await fitting_insert(request, model)
        [ids] = await model.tokenize([fitting.prompt])
        assert (ids.count(ord("x")), ids.count(ord("y")), ids.count(122)) == kept
        assert [one for one in ids if one in (PRE, SUF, MID)] == [PRE, SUF, MID]
        assert len(ids) + 14 <= 64
        assert fitting.dropped_tokens == before + behind + files - sum(kept)

    asyncio.run(with_model(check))


async def with_model(check: Callable[[RunningModel], Awaitable[None]]) -> None:
    load = LoadRequest(model="m", files=(), load_options={"num_ctx": 64})
    model = await ThreadRunner().load(SPEC, load, lambda share: None)
    try:
        await check(model)
    finally:
        await model.aclose()


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a", "b\n", "c", "d"], "ab\nc"),
        (["a", "b", "c", "d\n", "e"], "abcd\n"),
        (["a", "b", "c", "d"], "abcd"),
        (["a\n", "b"], "a\nb"),
    ],
)
def test_an_answer_that_takes_too_long(texts: list[str], said: str) -> None:
    """It ends with the first text that comes too late, if there is a whole line; each of these takes a second."""
    ended = []

    async def answer() -> AsyncGenerator[Output, None]:
        try:
            yield Started(prompt_tokens=3, cached_tokens=1)
            for text in texts:
                yield Delta(text=text, token_count=1)
            yield Finished(reason="stop", usage=Usage(prompt_tokens=3, generated_tokens=len(texts)))
        finally:
            ended.append(True)

    async def heard() -> list[Output]:
        seconds = itertools.count()
        return [output async for output in until_late(answer(), 1.5, lambda: float(next(seconds)))]

    outputs = asyncio.run(heard())
    assert "".join(output.text for output in outputs if isinstance(output, Delta)) == said
    finished = outputs[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == ("stop" if said == "".join(texts) else "length")
    assert finished.usage.generated_tokens == sum(isinstance(output, Delta) for output in outputs)
    assert ended == [True]
