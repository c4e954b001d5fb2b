"""The client: framings, arrival times, dialects; against small servers on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

from benchmarks.client import Response, request, send
from benchmarks.dialects import Completion, Dialect, DialectName, detect, first_model, read_completion

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _server(answer: Answer) -> AsyncIterator[str]:
    over: list[asyncio.Event] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over.append(asyncio.Event())
        done = over[-1]
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            done.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*(done.wait() for done in over))


def _writes(*pieces: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)

    return answer


async def _ask(*pieces: bytes) -> Response:
    async with _server(_writes(*pieces)) as url:
        return await request(url, {"a": 1})


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_chunked_lines_have_the_time_their_end_arrived() -> None:
    """Chunks may cut lines and reads may cut chunks; each line's time is that of its last byte."""
    response = asyncio.run(_ask(_CHUNKED + b"6\r\nab\ncd", b"e\r\n3\r\nf\ng\r\n", b"0\r\n\r\n"))
    assert [line for _, line in response.lines] == [b"ab", b"cdef", b"g"]
    assert response.body == b"ab\ncdef\ng"
    times = [at_ns for at_ns, _ in response.lines]
    assert times[0] < times[1] == times[2]


def test_a_body_of_a_known_length_is_read() -> None:
    """Without chunks the rest of the connection is the body."""
    response = asyncio.run(_ask(b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\na", b"\nb"))
    assert (response.status, response.body) == (404, b"a\nb")
    assert [line for _, line in response.lines] == [b"a", b"b"]


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Le",),
        (_CHUNKED + b"5\r\nabcde\r\n",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",),
    ],
)
def test_an_answer_cut_short_is_an_error(pieces: tuple[bytes, ...]) -> None:
    """An incomplete answer is never taken for a complete one."""
    with pytest.raises(ConnectionError):
        asyncio.run(_ask(*pieces))


def test_arrivals_can_be_waited_for_and_the_connection_dropped() -> None:
    """A caller knows when a stream has begun, and the server notices a disconnect."""

    async def main() -> int:
        gone = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(_CHUNKED + b"2\r\na\n\r\n")
            await reader.read()
            gone.set()

        async with _server(answer) as url:
            exchange = await send(url, {})
            await exchange.wait_arrivals(1)
            exchange.abort()
            await exchange.wait_arrivals(100)
            await asyncio.wait_for(gone.wait(), 5)
            return len(exchange.arrivals)

    assert asyncio.run(main()) == 1


def _response(*lines: Any, prefix: bytes = b"", status: int = 200) -> Response:
    encoded = [prefix + (line if isinstance(line, bytes) else msgspec.json.encode(line)) for line in lines]
    return Response(status=status, headers={}, body=b"\n".join(encoded), lines=list(enumerate(encoded, 10)))


def test_ollama_lines_are_read() -> None:
    """Text per line, counts from the last one."""
    generated = read_completion(
        "ollama",
        _response(
            {"response": "He", "done": False},
            {"response": "", "done": False},
            {"response": "y", "done": False},
            {"response": "", "done": True, "eval_count": 3, "prompt_eval_count": 9},
        ),
    )
    assert (generated.text, generated.text_at_ns) == ("Hey", [10, 12])
    assert (generated.generated_tokens, generated.prompt_tokens) == (3, 9)


def test_llama_server_events_are_read() -> None:
    """Server-sent events with `content`, counts in the one that stops."""
    stop = {"content": "", "stop": True, "tokens_predicted": 2, "tokens_evaluated": 5, "timings": {"cache_n": 4}}
    events = ({"content": "a", "stop": False}, {"content": "b", "stop": False}, stop)
    generated = read_completion("llama-server", _response(*events, prefix=b"data: "))
    assert (generated.text, generated.generated_tokens, generated.cached_tokens) == ("ab", 2, 4)


def test_openai_events_are_read() -> None:
    """The texts of the choices; token counts from `usage` if the server sends it, or else the number of events."""
    text = {"choices": [{"text": "a"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}
    assert read_completion("openai", _response(text, usage, b"[DONE]", prefix=b"data: ")).generated_tokens == 7
    assert read_completion("openai", _response(text, text, b"[DONE]", prefix=b"data: ")).generated_tokens == 2


@pytest.mark.parametrize(
    "response",
    [_response({"error": "no such model"}, status=404), _response({"response": "a"}, {"error": "no such model"})],
)
def test_a_servers_error_is_shown(response: Response) -> None:
    """An error status and an error line both end the benchmark with the server's words."""
    with pytest.raises(RuntimeError, match="no such model"):
        read_completion("ollama", response)


@pytest.mark.parametrize("name", ["ollama", "llama-server", "openai"])
def test_every_dialect_asks_for_the_same_thing(name: DialectName) -> None:
    """Prompt, sampling and length are in each body."""
    body = Dialect(name=name, url="http://h:1/", model="m").body(
        Completion(prompt="p", max_tokens=5, temperature=0.5, seed=3)
    )
    flat = {**body, **body.get("options", {})}
    assert flat["prompt"] == "p"
    assert (flat["temperature"], flat["seed"]) == (0.5, 3)
    assert 5 in flat.values()
    assert Dialect(name=name, url="http://h:1/").path().startswith("http://h:1/")


def test_a_server_is_recognised_by_what_it_answers() -> None:
    """Ollama's version route makes it Ollama's dialect, and its first model is taken."""
    models = msgspec.json.encode({"models": [{"name": "tiny:latest"}]})

    async def main() -> tuple[str, str]:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(models)}\r\n\r\n".encode()
        async with _server(_writes(head + models)) as url:
            return await detect(url), await first_model("ollama", url)

    assert asyncio.run(main()) == ("ollama", "tiny:latest")
