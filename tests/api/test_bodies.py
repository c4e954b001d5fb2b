"""Request bodies take bounded memory and time, whatever a client sends."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from corral.api.http import body as body_module
from corral.api.http import body_memory
from corral.api.http.body import read_json
from corral.api.http.body_memory import BodyMemory, BytesRead
from corral.api.http.content_encoding import zstd_module
from corral.api.http.errors import ApiError, BodyTooLarge
from corral.api.http.go_json import Body, decode_body
from corral.api.http.json_shape import MOST_DEPTH, JsonShape
from corral.api.http.ollama.bodies import ChatBody, CopyBody, DeleteBody, EmbedBody, ShowBody
from corral.core.errors import ServerBusy

MIB = 1024 * 1024
HEAD = b'{"model": "m", '

GROWTH = """
import asyncio, resource, time
from types import SimpleNamespace
from corral.api.http.body import read_json
from corral.api.http.body_memory import BodyMemory
from corral.api.http.ollama.bodies import ChatBody

def rss_mib():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() >> 20

async def request(memory, content):
    scope = {"state": {}}
    most = 0
    async def app(scope, receive, send):
        nonlocal most
        await read_json(SimpleNamespace(
            app=SimpleNamespace(state=SimpleNamespace(bodies=memory)), headers={}, scope=scope, receive=receive
        ), ChatBody)
        most = rss_mib()
    chunks = [b'{"messages": [{"content": "', *[content] * 192, b'"}]}']
    async def receive():
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}
    await memory.wrapped(app)(scope, receive, None)
    return most

async def main():
    memory = BodyMemory(64 << 20)
    await request(memory, b"x" * 1000)
    before = rss_mib()
    most = [await request(memory, content) for content in (b"x" * 65536, b"\\\\n" * 16384, b"y" * 65536)]
    deadline = time.monotonic() + 30
    while rss_mib() - before >= 10 and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    print(max(most) - before, rss_mib() - before)

asyncio.run(main())
"""


class Sender:
    """A request whose body comes in chunks; `sent_bytes` is how much of it was asked for."""

    def __init__(self, memory: BodyMemory, chunks: Iterator[bytes], announced: int | None = None) -> None:
        self.app = SimpleNamespace(state=SimpleNamespace(bodies=memory))
        self.headers = {} if announced is None else {"content-length": str(announced)}
        self.scope: Any = {"state": {}}
        self.sent_bytes = 0
        self._chunks = chunks

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        chunk = next(self._chunks, b"")
        self.sent_bytes += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}


def chunks_of(body: bytes, size: int = 64 * 1024) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


async def read(sender: Sender, kind: type[Body] = ChatBody) -> Any:
    return await read_json(sender, kind)  # type: ignore[arg-type]  # what of a request it uses


def shape_of(body: bytes, size: int = 64 * 1024) -> JsonShape:
    shape = JsonShape()
    for chunk in chunks_of(body, size):
        shape.feed(chunk)
    return shape


@pytest.mark.parametrize(
    "item",
    [b"{},", b"[],", b'{"role": "user"},', b"1,", b'"",', b'{"a": [{}]},'],
)
def test_too_many_values_are_refused_before_they_are_made(item: bytes) -> None:
    """A body of two million small values gets 413 after part of it has been read, and takes less memory than a few
    slices.
    """
    body = HEAD + b'"messages": [' + item * (8 * MIB // len(item)) + b"{}]}"
    sender = Sender(BodyMemory(64 * MIB), chunks_of(body), len(body))
    tracemalloc.start()
    try:
        with pytest.raises(ApiError) as caught:
            asyncio.run(read(sender))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.status == 413
    assert sender.sent_bytes < len(body)
    assert peak_bytes < 16 * MIB


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64 * 1024])
def test_only_what_is_outside_of_texts_counts(size: int) -> None:
    """Brackets, commas and escaped quotes inside strings are text, wherever a slice ends."""
    text = 'x [[[{{{ ,,, \\ " \\" ' * 50 + "\\"
    shape = shape_of(json.dumps({"prompt": text, "list": [1, {"a": text}]}).encode(), size)
    assert shape.is_complete
    assert shape.containers == 3


@pytest.mark.parametrize(
    ("text", "width"),
    [("plain", 1), ("schön", 2), ("漢字", 2), ("one 😀", 4)],
)
@pytest.mark.parametrize("ensure_ascii", [False, True])
def test_text_is_counted_as_it_will_be_in_memory(text: str, width: int, ensure_ascii: bool) -> None:
    """One wide character widens its whole text, and no other text."""
    wide, plain = text * 1000, "x" * 100_000
    shape = shape_of(json.dumps({"a": wide, "b": plain}, ensure_ascii=ensure_ascii).encode(), 1000)
    assert shape.text_bytes >= len(wide) * width + len(plain)
    assert shape.text_bytes <= len(plain) + 24 * len(wide) + 100


def test_nesting_has_a_bound() -> None:
    """One level of nesting too many gets Go's error message, in small bodies and in big ones."""
    deepest = b'{"a":' * MOST_DEPTH + b"1" + b"}" * MOST_DEPTH
    assert decode_body(deepest, ChatBody) == ChatBody()
    for filling in (b"", b" " * 100_000):
        body = b'{"x":' + filling + deepest + b"}"
        with pytest.raises(ApiError, match="exceeded max depth"):
            asyncio.run(read(Sender(BodyMemory(MIB), chunks_of(body))))


def test_endless_digits_are_no_number() -> None:
    """A number that no float64 can hold is refused as Go refuses it, without creating an integer."""
    body = HEAD + b'"top_logprobs": ' + b"7" * 100_000 + b"}"
    with pytest.raises(ApiError, match="cannot unmarshal number"):
        asyncio.run(read(Sender(BodyMemory(MIB), chunks_of(body))))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"x" * MIB, "invalid character 'x' looking for beginning of value"),
        (b"[" + b"1," * MIB, "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (b'"' + b"y" * MIB, "json: cannot unmarshal string into Go value of type api.ChatRequest"),
        (b"\x00" * MIB, r"invalid character '\x00' looking for beginning of value"),
    ],
)
def test_a_long_body_that_is_no_object_is_not_read_to_its_end(body: bytes, text: str) -> None:
    """The first byte shows that it is not JSON; the rest is not read."""
    sender = Sender(BodyMemory(8 * MIB), chunks_of(body))
    with pytest.raises(ApiError) as caught:
        asyncio.run(read(sender))
    assert caught.value.text == text
    assert sender.sent_bytes < 200_000


@pytest.mark.parametrize("end", [b" z", b"", b'"unfinished', b', "a": 01}'])
def test_a_long_body_that_breaks_off_late_is_400(end: bytes) -> None:
    """An error far into a body is reported briefly, without looking at every token."""
    body = HEAD + b'"context": [' + b"1, " * 100_000 + b"1]" + end
    sender = Sender(BodyMemory(8 * MIB), chunks_of(body))
    with pytest.raises(ApiError) as caught:
        asyncio.run(read(sender))
    assert caught.value.status == 400
    assert caught.value.text.startswith("invalid JSON: ")


def test_what_follows_the_value_is_not_read() -> None:
    """Anything may follow the first value: Go never looks at it."""
    body = HEAD + b'"x": "' + b"y" * 100_000 + b'"} ' + b"[" * MIB
    sender = Sender(BodyMemory(8 * MIB), chunks_of(body))
    assert asyncio.run(read(sender)).model == "m"
    assert sender.sent_bytes < 300_000


def test_broken_text_is_mended_in_long_bodies_too() -> None:
    r"""Invalid UTF-8 and lone surrogates become U+FFFD; ``\\ud800`` is a backslash and five letters."""
    text = rb"\ud800 \ud83d\ude00 \\ud800 \udc00" + b"\xff"
    body = HEAD + b'"messages": [{"content": "' + text * 10_000 + b'"}]}'
    message = asyncio.run(read(Sender(BodyMemory(8 * MIB), chunks_of(body)))).messages[0]
    assert message.content == "\ufffd \U0001f600 \\ud800 \ufffd\ufffd" * 10_000


def test_wide_text_has_a_bound_and_images_have_not() -> None:
    """Texts count by their size in memory, where one emoji makes every character four bytes; images count as sent."""
    big = b"x" * (5 * MIB)

    def message(body: bytes) -> Any:
        whole = HEAD + b'"messages": [{"content": "' + body + b"]}"
        return asyncio.run(read(Sender(BodyMemory(64 * MIB), chunks_of(whole, MIB)))).messages[0]

    assert len(message(big + b'"}').content) == 5 * MIB
    with pytest.raises(ApiError) as caught:
        message(big + "😀".encode() + b'"}')
    assert caught.value.status == 413
    assert len(message("😀".encode() + b'", "images": ["' + big * 4 + b'"]}').images[0]) == 20 * MIB


def test_others_run_while_a_long_body_is_read_and_decoded() -> None:
    """Other tasks run between the chunks of a body, and while broken text in it is repaired."""
    message = b'{"content": "' + rb"\ud800" * 20_000 + b'"},'
    body = HEAD + b'"messages": [' + message * 8 + b"{}]}"
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        await read(Sender(BodyMemory(8 * MIB), chunks_of(body)))
        ticking.cancel()

    asyncio.run(main())
    assert ticks > len(body) // (64 * 1024)


def test_many_bodies_at_once_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """When ten bodies arrive together, other tasks run after each chunk, not after a chunk of every body."""
    counted = most = 0

    class Counting(JsonShape):
        def feed(self, chunk: bytes | bytearray) -> None:
            nonlocal counted
            counted += 1
            super().feed(chunk)

    async def tick() -> None:
        nonlocal counted, most
        while True:
            most, counted = max(most, counted), 0
            await asyncio.sleep(0)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        await asyncio.gather(*(read(Sender(memory, chunks_of(body))) for _ in range(10)))
        ticking.cancel()

    monkeypatch.setattr(body_module, "JsonShape", Counting)
    memory = BodyMemory(64 * MIB)
    body = HEAD + b'"x": "' + b"y" * MIB + b'"}'
    asyncio.run(main())
    assert 0 < most <= 2


def test_bodies_at_the_same_time_share_a_bounded_memory() -> None:
    """Eight big bodies together hold at most half the limit plus one body, and all of them finish."""
    memory = BodyMemory(2 * MIB)
    body = HEAD + b'"x": "' + b"y" * (MIB * 3 // 2) + b'"}'
    most_bytes = 0

    async def one() -> Any:
        nonlocal most_bytes
        sender = Sender(memory, chunks_of(body))
        reading = asyncio.ensure_future(read(sender))
        while not reading.done():
            most_bytes = max(most_bytes, memory.raw.taken_bytes)
            await asyncio.sleep(0)
        memory.give(sender.scope)
        return reading.result()

    async def main() -> list[Any]:
        return await asyncio.gather(*(one() for _ in range(8)))

    assert [answer.model for answer in asyncio.run(main())] == ["m"] * 8
    assert 0 < most_bytes <= MIB + len(body)
    assert memory.raw.taken_bytes == memory.decoded.taken_bytes == 0


def test_a_body_without_room_is_told_that_the_server_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """While other requests hold all the memory for bodies, a big one waits and is then refused, and a small one is
    accepted."""
    monkeypatch.setattr(body_memory, "_PATIENCE_S", 0.01)
    memory = BodyMemory(MIB)
    body = HEAD + b'"messages": [{"content": "' + b"y" * 700_000 + b'"}]}'

    async def main() -> None:
        first = Sender(memory, chunks_of(body))
        await read(first)
        with pytest.raises(ServerBusy, match="busy"):
            await read(Sender(memory, chunks_of(body)))
        assert (await read(Sender(memory, chunks_of(b'{"model": "small"}')))).model == "small"
        memory.give(first.scope)
        assert (await read(Sender(memory, chunks_of(body)))).model == "m"

    asyncio.run(main())
    assert memory.raw.taken_bytes == 0


def test_who_gives_up_waiting_leaves_the_queue() -> None:
    """A body whose client leaves while waiting for room holds nothing, and those behind it continue."""
    memory = BodyMemory(MIB)

    async def main() -> None:
        async with BytesRead(memory) as first:
            await first.add(600_000)
            async with BytesRead(memory) as second:
                waiting = asyncio.ensure_future(second.add(1000))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            assert memory.raw.taken_bytes == 600_000
        assert memory.raw.taken_bytes == 0

    asyncio.run(main())


def test_a_body_that_stands_still_makes_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends most of a big body and then nothing loses its place once another one needs it."""
    monkeypatch.setattr(body_memory, "_PATIENCE_S", 0.01)
    monkeypatch.setattr(body_memory, "_SLOW_AFTER_S", 0.0)
    memory = BodyMemory(2 * MIB)
    body = HEAD + b'"x": "' + b"y" * MIB + b'"}'
    drop_slow_body = memory.drop_slow_body

    def drop_and_wait_long() -> bool:
        monkeypatch.setattr(body_memory, "_PATIENCE_S", 60.0)  # only the wait before the drop may run out
        return drop_slow_body()

    monkeypatch.setattr(memory, "drop_slow_body", drop_and_wait_long)

    async def main() -> None:
        stands_still = asyncio.Event()

        class Stalled(Sender):
            async def receive(self) -> dict[str, Any]:
                if self.sent_bytes > 1_000_000:
                    stands_still.set()
                    await asyncio.Event().wait()
                return await super().receive()

        stalled = asyncio.ensure_future(read(Stalled(memory, chunks_of(body))))
        await stands_still.wait()
        assert memory.raw.taken_bytes > 1_000_000
        assert (await read(Sender(memory, chunks_of(body)))).model == "m"
        with pytest.raises(ApiError, match="took too long") as caught:
            await stalled
        assert caught.value.status == 408

    asyncio.run(main())
    assert memory.raw.taken_bytes == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and asks glibc")
def test_the_process_is_as_small_as_before_once_big_bodies_are_over() -> None:
    """Bodies of 12 MB make the process grow by little more than their bytes and texts, and it shrinks again
    afterwards."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, timeout=60, check=True)
    most_mib, left_mib = map(int, done.stdout.split())
    assert most_mib < 60
    assert left_mib < 10


@pytest.mark.parametrize("kind", [CopyBody, DeleteBody, ShowBody])
def test_bodies_with_a_name_are_small(kind: type[Body]) -> None:
    """A body that only contains a name has a much lower limit than a conversation."""
    sender = Sender(BodyMemory(64 * MIB), chunks_of(b'{"model": "' + b"m" * (2 * MIB) + b'"}'))
    with pytest.raises(BodyTooLarge):
        asyncio.run(read(sender, kind))
    assert sender.sent_bytes < 2 * MIB


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ({"model": "m" * 2000}, ChatBody, "invalid model name"),
        ({"source": "m", "destination": "m" * 2000}, CopyBody, "invalid model name"),
        ({"options": {f"k{i}": 1 for i in range(1025)}}, ChatBody, "options has 1025 entries"),
        ({"input": ["x"] * 16_385}, EmbedBody, "input has 16385 entries"),
        ({"messages": [{}] * 10_001}, ChatBody, "messages has 10001 entries"),
        ({"tools": [{}] * 2049}, ChatBody, "tools has 2049 entries"),
    ],
)
def test_names_options_and_lists_have_bounds(body: dict[str, Any], kind: type[Body], text: str) -> None:
    """A value of an absurd size is refused, naming the size, before anything else happens."""
    with pytest.raises(ApiError, match=text):
        decode_body(json.dumps(body).encode(), kind)


def test_an_error_does_not_repeat_a_long_input(client: httpx.Client) -> None:
    """An error that quotes what was sent quotes only its beginning."""
    response = client.post("/api/chat", json={"model": "smol:q4", "think": "x" * 50_000})
    assert response.status_code == 400
    assert response.json()["error"].startswith('invalid think value: "xxx')
    assert len(response.content) < 5000


def test_memory_for_a_body_comes_back_at_the_end_of_its_request(start_server: Callable[..., Any]) -> None:
    """Nothing is held after answers, errors and refusals, so any number of big requests may follow."""
    with start_server(max_body_bytes=MIB) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        for content in ("x" * 700_000, "😀" + "x" * 900_000, ["y" * 600_000]):
            for _ in range(3):
                body = {"model": "smol:q4", "messages": [{"role": "user", "content": content}], "truncate": False}
                assert client.post("/api/chat", json=body).status_code in (400, 413)
        assert client.post("/api/chat", json={"model": "smol:q4", "x": "y" * 900_000}).status_code == 200


def test_many_embeddings_are_sent_row_by_row(client: httpx.Client) -> None:
    """An answer of many rows, written in several pieces, is the same JSON as a short one."""
    texts = [f"text {number}" for number in range(100)]
    whole = client.post("/api/embed", json={"model": "embedder", "keep_alive": 0, "input": texts}).json()
    few = client.post("/api/embed", json={"model": "embedder", "keep_alive": 0, "input": texts[-2:]}).json()
    assert len(whole["embeddings"]) == 100
    assert whole["embeddings"][-2:] == few["embeddings"]
    assert set(whole) == set(few)


def test_a_request_may_take_memory_twice() -> None:
    """What it loads counts beside its body, never more than everything, and all of it is given back when it ends."""

    async def run() -> None:
        memory = BodyMemory(MIB)
        scope: Any = {"state": {}}
        taken = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for size_bytes in (1000, 2000, 10 * MIB):
                await memory.take(scope, size_bytes)
                taken.append(memory.decoded.taken_bytes)

        await memory.wrapped(app)(scope, None, None)  # type: ignore[arg-type]
        assert taken == [1000, 3000, MIB]
        assert memory.decoded.taken_bytes == 0
        memory.close()

    asyncio.run(run())


class Packed(Sender):
    """A request whose body says that it is in zstd."""

    def __init__(self, memory: BodyMemory, chunks: Iterator[bytes]) -> None:
        super().__init__(memory, chunks)
        self.headers = {"content-encoding": "Zstd"}


def packed(body: bytes) -> bytes:
    data: bytes = zstd_module().compress(body)
    return data


@pytest.mark.parametrize("size", [1, 7, 64 * 1024])
def test_a_body_in_zstd(size: int) -> None:
    """Small or large, whatever the pieces in which it arrives."""
    for text in ("hi", "word " * 100_000):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
        found = asyncio.run(read(Packed(BodyMemory(64 * MIB), chunks_of(packed(body), size))))
        assert found.messages[0].content == text


@pytest.mark.parametrize("size", [1, 5, 64 * 1024])
def test_a_body_of_several_frames(size: int) -> None:
    """All of them count, and those that are skipped or empty say nothing, at either end."""
    skipped = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    parts = (
        skipped,
        packed(b""),
        packed(b'{"model": "m", "messages": [{"role": '),
        skipped,
        packed(b'"user"}]}'),
        skipped,
    )
    found = asyncio.run(read(Packed(BodyMemory(MIB), chunks_of(b"".join(parts), size))))
    assert found.messages[0].role == "user"


def test_frames_that_say_nothing_without_end() -> None:
    """They are refused once there are more bytes than a body may have."""
    skipped = (0x184D2A50).to_bytes(4, "little") + (MIB).to_bytes(4, "little") + bytes(MIB)
    with pytest.raises(BodyTooLarge):
        asyncio.run(read(Packed(BodyMemory(64 * MIB), chunks_of(skipped * 24))))


def test_frames_without_end() -> None:
    """Empty ones are cheap to send and not to read: there is a limit."""
    empty = (0x184D2A50).to_bytes(4, "little") + bytes(4)
    with pytest.raises(ApiError, match="more than 1024 zstd frames"):
        asyncio.run(read(Packed(BodyMemory(64 * MIB), chunks_of(empty * 100_000))))


def test_a_body_that_grows_without_end() -> None:
    """It is refused once it is too large, having taken no more memory than that."""
    bomb = packed(b'{"model": "' + b"x" * (96 * MIB) + b'"}')
    assert len(bomb) < MIB
    sender = Packed(BodyMemory(64 * MIB), chunks_of(bomb))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge, match=str(20 * MIB)):
            asyncio.run(read(sender))
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"nonsense", "not valid zstd"),
        (packed(b'{"model": "m"}')[:-3], "ends within its zstd frame"),
    ],
)
def test_a_body_that_is_no_zstd(body: bytes, text: str) -> None:
    """It is 400 and says so."""
    with pytest.raises(ApiError, match=text) as caught:
        asyncio.run(read(Packed(BodyMemory(MIB), chunks_of(body))))
    assert caught.value.status == 400


def test_zstd_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 415, with what to install."""
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    with pytest.raises(ApiError, match=r"corral\[server\]") as caught:
        asyncio.run(read(Packed(BodyMemory(MIB), iter([b"{}"]))))
    assert caught.value.status == 415
