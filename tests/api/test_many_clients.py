"""Sixty-four clients at once on one model, some of which leave: nobody gets another's text, and nothing is left over.

CORRAL_CLIENT_ROUNDS sets how often all of them come (default 1).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

CLIENTS = 64
ROUNDS = int(os.environ.get("CORRAL_CLIENT_ROUNDS", "1"))


def _body(number: int) -> dict[str, Any]:
    chance = random.Random(number)
    words = " ".join(f"w{chance.randrange(1000)}" for _ in range(chance.randrange(1, 40)))
    options = {"seed": number, "temperature": 0.8, "num_predict": chance.randrange(4, 16)}
    return {"model": "smol:q4", "prompt": f"client {number}: {words}", "options": options}


async def _read(client: httpx.AsyncClient, number: int, lines: int | None) -> str | None:
    """The whole answer, or None if the client left after some lines."""
    text = ""
    async with client.stream("POST", "/api/generate", json=_body(number)) as response:
        async for line in response.aiter_lines():
            found = json.loads(line)
            text += found["response"]
            if lines is not None:
                lines -= 1
                if lines == 0:
                    return None
    assert found["done"]
    return text


async def _all_at_once(url: str, chance: random.Random) -> list[str | None]:
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        leaving = [chance.randrange(1, 4) if chance.random() < 0.3 else None for _ in range(CLIENTS)]
        return await asyncio.gather(*(_read(client, number, lines) for number, lines in enumerate(leaving)))


async def _one_by_one(url: str) -> list[str | None]:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        return [await _read(client, number, None) for number in range(CLIENTS)]


def test_many_clients_get_their_own_texts(start_server: Callable[..., Any], within: Callable[..., bool]) -> None:
    """Every text is what the same request gets alone; then no request holds the model, and no file stays open."""
    with start_server({}) as server:
        alone = asyncio.run(_one_by_one(server.url))
        assert len(set(alone)) > CLIENTS // 2
        files = len(list(Path("/proc/self/fd").iterdir()))
        for number in range(ROUNDS):
            together = asyncio.run(_all_at_once(server.url, random.Random(number)))
            assert any(text is None for text in together)
            assert [text or own for text, own in zip(together, alone, strict=True)] == alone
            assert within(30, lambda: server.active() == 0)
            assert within(30, lambda: len(list(Path("/proc/self/fd").iterdir())) <= files)
