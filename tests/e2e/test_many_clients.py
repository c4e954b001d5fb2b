"""Many clients at once on SmolLM2, some of which leave: each gets its own answer, and nothing is left over.

CORRAL_CLIENTS sets how many come at once (default 6), CORRAL_CLIENT_ROUNDS how often (default 1).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

SMOLLM2 = "smollm2-135m-instruct:q4_1"
CLIENTS = int(os.environ.get("CORRAL_CLIENTS", "6"))
ROUNDS = int(os.environ.get("CORRAL_CLIENT_ROUNDS", "1"))
STREAMS = 4
GROWTH_MIB = 64

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _marker(number: int) -> str:
    """A code that no other client has, in letters that the model copies one by one."""
    return "".join(random.Random(number).sample("BCDFGHJKLMNPQRSTVWXZ", 6))


def _request(number: int) -> tuple[str, dict[str, Any]]:
    """Chats and completions, some with a long text before the code, some with the same one as others."""
    chance = random.Random(number)
    said = f"The secret code is {_marker(number)}. Repeat the secret code."
    shared = "You are a helpful assistant who keeps secrets and repeats codes. " * chance.choice((0, 0, 1, 2))
    own = " ".join(f"w{chance.randrange(1000)}" for _ in range(chance.choice((0, 5, 20))))
    options = {"temperature": 0, "num_predict": chance.randrange(6, 12)}
    if number % 2:
        messages = [{"role": "user", "content": f"{shared}{own} {said}"}]
        return "/api/chat", {"model": SMOLLM2, "messages": messages, "options": options}
    prompt = f"{shared}{own} {said} The secret code is"
    return "/api/generate", {"model": SMOLLM2, "prompt": prompt, "raw": True, "options": options}


async def _read(client: httpx.AsyncClient, number: int, lines: int | None) -> tuple[str, bool]:
    """The answer, and whether it is whole: the client leaves after some lines, or reads them all."""
    path, body = _request(number)
    text = ""
    async with client.stream("POST", path, json=body) as response:
        async for line in response.aiter_lines():
            found = json.loads(line)
            text += found["message"]["content"] if path == "/api/chat" else found["response"]
            lines = None if lines is None else lines - 1
            if found["done"] or lines == 0:
                return text, found["done"]
    raise AssertionError("the answer was cut off")


async def _all_at_once(url: str, chance: random.Random) -> list[tuple[str, bool]]:
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        leaving = [chance.randrange(1, 6) if chance.random() < 0.3 else None for _ in range(CLIENTS)]
        return await asyncio.gather(*(_read(client, number, lines) for number, lines in enumerate(leaving)))


def _memory_mib(process_id: int) -> int:
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)[1]) >> 10  # type: ignore[index]


def _files(process_id: int) -> int:
    return len(list(Path(f"/proc/{process_id}/fd").iterdir()))


@pytest.mark.native
@pytest.mark.slow
def test_many_clients_of_one_model(server: Any, within: Callable[[float, Callable[[], bool]], bool]) -> None:
    """No answer has another's code; every whole one is what the same request got in another round. Then all streams are
    free, and memory and open files of both processes are what they were."""
    whole: dict[int, str] = {}
    marked = 0
    asyncio.run(_all_at_once(server.url, random.Random(-1)))  # memory that is used for the first time stays
    processes = (server.process.pid, server.child())
    assert within(60, lambda: server.active() == 0)
    files, memory_mib = [[count(one) for one in processes] for count in (_files, _memory_mib)]
    for round_number in range(ROUNDS):
        answers = asyncio.run(_all_at_once(server.url, random.Random(round_number)))
        for number, (text, is_whole) in enumerate(answers):
            others = {_marker(other) for other in range(CLIENTS) if other != number}
            assert not [marker for marker in others if marker in text]
            marked += _marker(number) in text
            if is_whole:
                assert whole.setdefault(number, text) == text
        assert within(60, lambda: server.active() == 0)
        now_mib = [_memory_mib(one) for one in processes]
        print(f"round {round_number}: {memory_mib} MiB before, {now_mib} after; files {files}")
        assert all(now <= before + GROWTH_MIB for now, before in zip(now_mib, memory_mib, strict=True))
    assert marked > 0
    with ExitStack() as streams:
        for _ in range(STREAMS):
            next(streams.enter_context(server.streaming()))
    assert within(60, lambda: server.active() == 0)
    assert server.child() == processes[1]
    assert within(60, lambda: all(_files(one) <= count for one, count in zip(processes, files, strict=True)))
