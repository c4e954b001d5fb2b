"""Hostile servers and servers that are not model servers: each ends soon in one of our errors, in little memory."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import pytest

from corral.adapters.engines.upstream import answer_tracking as progress
from corral.adapters.engines.upstream import lines, openai_answers
from corral.adapters.engines.upstream.lines import read_events, read_lines
from corral.adapters.engines.upstream.tool_calls import Fragment, Function, ToolCallFragments
from corral.adapters.system.secrets import Secrets
from corral.core.errors import CorralError, InvalidRequest, Unsupported, UpstreamError
from corral.core.requests.messages import Message
from corral.core.requests.outputs import Delta, Finished, Output
from corral.core.requests.requests import ChatRequest, SamplingParams
from corral.plugins.testing.scripted_server import ScriptedReply, ScriptedServer

CHAT = "/v1/chat/completions"
OLLAMA_CHAT = "/api/chat"
HELLO = ChatRequest(messages=(Message(role="user", content="Hello"),))
ENDED = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
HUGE = b"1" * 40


def answer(load_upstream: Any, url: str, api: str, request: ChatRequest = HELLO, **options: Any) -> list[Output]:
    async def run() -> list[Output]:
        model = await load_upstream(url, api=api, **options)
        try:
            return [output async for output in model.run(request)]
        finally:
            await model.aclose()

    return asyncio.run(asyncio.wait_for(run(), 20))


@pytest.fixture
def ask(upstream: ScriptedServer, load_upstream: Any) -> Callable[..., list[Output]]:
    """The outcome of one chat with a server that answers like this, over OpenAI's API or Ollama's."""
    upstream.replies["/v1/models"] = ScriptedReply(body={"data": [{"id": "m"}]})
    upstream.replies["/api/tags"] = ScriptedReply(body={"models": [{"name": "m"}]})
    upstream.replies["/api/show"] = ScriptedReply(body={})

    def ask(reply: ScriptedReply, api: str = "openai", **options: Any) -> list[Output]:
        upstream.replies[CHAT if api == "openai" else OLLAMA_CHAT] = reply
        return answer(load_upstream, upstream.url, api, **options)

    return ask


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (
            ScriptedReply(body=b"<html>Log in</html>", headers={"content-type": "text/html"}),
            "did not answer with a stream: <html>Log in",
        ),
        (ScriptedReply(body={"error": {"message": "no such luck"}}), "no such luck"),
        (ScriptedReply(body=b'{\n  "error": {\n    "message": "no such luck"\n  }\n}'), "no such luck"),
        (
            ScriptedReply(body=b"\x1f\x8b\x08\x00" * 99, headers={"content-encoding": "gzip"}),
            "did not answer with a stream",
        ),
        (ScriptedReply(body=b""), "without a finish reason"),
        (ScriptedReply(pieces=[b"data: \xff\xfe\n\n"]), "malformed"),
        (ScriptedReply(pieces=[b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n']), "malformed"),
        (ScriptedReply(pieces=[b"data: " + b'{"error":' * 900 + b'"x"' + b"}" * 900 + b"\n\n"]), "x"),
        (ScriptedReply(pieces=[b"data: " + b"[" * 50_000 + b"\n\n"]), "malformed"),
        (ScriptedReply(pieces=[b'data: {"error": ' + HUGE + b"}\n\n"]), "1111"),
        (ScriptedReply(status=204, body=b""), "204"),
        (
            ScriptedReply(status=307, body={}, headers={"location": "http://127.0.0.1:9/"}),
            "redirects to http://127.0.0.1:9/",
        ),
        (ScriptedReply(status=500, body=b"\x1b[2Jfine"), "[^\x1b]\\[2Jfine"),
    ],
)
def test_an_answer_that_is_none(ask: Any, reply: ScriptedReply, text: str) -> None:
    """It is reported as the server's error, which quotes what arrived, escaped for a terminal."""
    with pytest.raises(UpstreamError, match=text):
        ask(reply)


@pytest.mark.parametrize(
    "line", [b"<html>", b"{}", b'{"message": {"content": "\xff"}}', b'{"done": 1}', b"[" * 50_000, b'{"error": 1}']
)
def test_an_answer_of_ollama_that_is_none(ask: Any, line: bytes) -> None:
    """The same holds for lines of JSON."""
    with pytest.raises(UpstreamError):
        ask(ScriptedReply(pieces=[line + b"\n"]), api="ollama")


@pytest.mark.parametrize(
    "last",
    [
        b'"usage": {"prompt_tokens": ' + HUGE + b', "completion_tokens": -5}',
        b'"timings": {"prompt_ms": 1e308, "predicted_ms": -1e308}',
        b'"usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": ' + HUGE + b"}}",
    ],
)
def test_figures_that_cannot_be(ask: Any, last: bytes) -> None:
    """A server that miscounts does not break an answer, and only valid numbers are passed on."""
    finished = ask(ScriptedReply(pieces=[ENDED, b'data: {"choices": [], ' + last + b"}\n\n"]))[-1]
    assert isinstance(finished, Finished)
    usage = finished.usage
    figures = (usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens, usage.prefill_ns, usage.decode_ns)
    assert all(0 <= figure < 1 << 63 for figure in figures)


def test_bytes_without_an_answer(ask: Any) -> None:
    """A server that only sends comments counts as silent."""
    with pytest.raises(UpstreamError, match=r"sent nothing for 0\.2 s"):
        ask(ScriptedReply(pieces=[b": still here\n\n"], endless=True), silence_timeout_s=0.2)


@contextmanager
def raw_server(head: bytes, repeated: bytes) -> Iterator[str]:
    """Answers every connection with the first bytes, and then endlessly with the second."""
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(65536)
                connection.sendall(head)
                while not stopped.wait(0.005):
                    connection.sendall(repeated)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=talk, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopped.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("head", "repeated"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        (b"", b"SSH-2.0-OpenSSH_9.6\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"zz\r\n"),
    ],
    ids=["100 for ever", "headers for ever", "no HTTP", "a body that drips", "chunks that drip", "no chunks"],
)
def test_heads_and_bodies_without_end(load_upstream: Any, head: bytes, repeated: bytes) -> None:
    """However slowly the answer trickles in, a question about models ends in time."""
    with raw_server(head, repeated) as url, pytest.raises(UpstreamError):
        answer(load_upstream, url, "openai", silence_timeout_s=0.1, connect_timeout_s=0.1)


def events_of(*chunks: bytes, times: int = 1) -> list[bytes]:
    async def pieces() -> Any:
        for _ in range(times):
            for chunk in chunks:
                yield chunk

    async def read() -> list[bytes]:
        return [event async for event in read_events(read_lines(pieces(), "there"), "there")]

    return asyncio.run(read())


@pytest.mark.parametrize("chunk", [b"x" * 65536, b"data: " + b"x" * 65536 + b"\n"])
def test_what_has_no_end_is_not_gathered(chunk: bytes) -> None:
    """A line, or an event of many lines, is abandoned at two megabytes."""
    with pytest.raises(UpstreamError, match="longer than 2097152 bytes"):
        events_of(b"data: ", chunk, times=1000)


def test_a_long_event_is_no_idle_server() -> None:
    """An event costs no more than its bytes, however many lines it has."""
    [event] = events_of(*[b"data: " + b"x" * 65536 + b"\n"] * 24, b"\n")
    assert len(event) > 1_500_000


def test_a_long_line_in_single_bytes() -> None:
    """The work grows linearly with its length, not quadratically."""
    began_s = time.process_time()
    [event] = events_of(b"data: ", *[b"x"] * 1_000_000, b"\n\n")
    assert len(event) == 1_000_000
    assert time.process_time() - began_s < 10  # a second or so; copying the line each time would take minutes


def test_tool_calls_without_end() -> None:
    """Their fragments are collected up to a limit, and many small ones do not hold up the event loop."""
    long = Fragment(function=Function(arguments="x" * 65536))
    named = Fragment(function=Function(name="a", arguments="}"))
    open_text = Fragment(function=Function(name="a", arguments='{"b":"' + "x" * 1_000_000))
    began_s = time.process_time()
    for fragments in (
        (Fragment(index=index) for index in range(1_000_000)),
        (Fragment(id=str(number), function=Function(name="a")) for number in range(1_000_000)),
        [long] * 1000,
        [open_text, *[named] * 1_000_000],
        [Fragment(function=Function(name="a"))] * 1_000_000,
    ):
        with pytest.raises(UpstreamError, match="tool calls are longer than"):
            ToolCallFragments("there").add(fragments)
    assert time.process_time() - began_s < 10  # half a second; looking through all calls for each took half a minute


def test_work_for_tool_calls_grows_with_their_length_alone() -> None:
    """However fragments name their calls, ten times as many are about ten times the work, or are refused."""

    def steps(count: int, kind: str) -> int:
        found = ToolCallFragments("there")
        counted = 0

        def count_lines(frame: Any, event: str, argument: object) -> Any:
            nonlocal counted
            counted += event == "line"
            return count_lines

        pieces = [
            Fragment(
                index=number if kind == "index" else None,
                id=f"c{number}" if kind == "id" else None,
                function=Function(name="f", arguments="{}"),
            )
            for number in range(count)
        ]
        before = sys.gettrace()
        sys.settrace(count_lines)
        try:
            found.add(pieces)
        finally:
            sys.settrace(before)
        [delta] = found.complete()
        assert len(delta.tool_calls) == count
        return counted

    for kind in ("index", "id", "neither"):
        assert steps(200, kind) < 15 * steps(20, kind)
    repeated = [Fragment(function=Function(name="f", arguments="[" * 100))] * 10_000
    with pytest.raises(UpstreamError, match="tool calls are longer than"):
        ToolCallFragments("there").add(repeated)


def test_fragments_of_tool_calls_in_disorder(ask: Any) -> None:
    """Interleaved calls, and a name that comes after the arguments, are put together by index."""
    fragments: list[dict[str, Any]] = [
        {"index": 1, "function": {"arguments": '{"b"'}},
        {"index": 0, "id": "x", "function": {"name": "first", "arguments": None}},
        {"index": 1, "function": {"name": "second", "arguments": ": 2}"}},
        {"index": None, "function": None},
    ]
    pieces = [
        b"data: " + json.dumps({"choices": [{"delta": {"tool_calls": [one]}}]}).encode() + b"\n\n" for one in fragments
    ]
    outputs = ask(ScriptedReply(pieces=[*pieces, b'data: {"choices":[{"finish_reason":"tool_calls"}]}\n\n']))
    [calls] = [output.tool_calls for output in outputs if getattr(output, "tool_calls", ())]
    assert [(call.name, call.arguments) for call in calls] == [("first", {}), ("second", {"b": 2})]


@pytest.mark.parametrize(
    "address",
    ["http://user:pw@127.0.0.1", "http://xn--a:1", "http://a b", "http://h:99999", "file:///etc/passwd", "::1", "//"],
)
def test_addresses_that_are_none(load_upstream: Any, address: str) -> None:
    """They are refused before anything is asked, and a password in one is not repeated."""
    with pytest.raises(InvalidRequest) as caught:
        asyncio.run(load_upstream(address))
    assert "pw" not in str(caught.value.info)


@pytest.mark.parametrize("address", ["https://ollama.com:443", "http://OLLAMA.com./", "http://ollama.com/v2/x"])
def test_ollama_com_however_it_is_spelt(load_upstream: Any, address: str) -> None:
    """ollama.com is contacted only if the settings name it."""
    with pytest.raises(Unsupported, match="ollama cloud"):
        asyncio.run(load_upstream(address))


def test_an_address_of_ipv6(load_upstream: Any) -> None:
    """It is accepted in brackets, and an error about it names it that way."""
    with pytest.raises(CorralError, match=r"http://\[::1\]:9"):
        asyncio.run(load_upstream("http://[::1]:9", connect_timeout_s=1))


@pytest.mark.parametrize("length", [-5, 0, 10**30])
def test_lengths_that_cannot_be(upstream: ScriptedServer, load_upstream: Any, length: int) -> None:
    """A context length that no model has counts as none."""
    upstream.replies["/v1/models"] = ScriptedReply(body={"data": [{"id": "m", "max_model_len": length}]})

    async def run() -> None:
        model = await load_upstream(upstream.url, api="openai")
        assert model.info.context_length is None
        await model.aclose()

    asyncio.run(run())


# ── Answers without end ───────────────────────────────────────────────────────────────────────────────────────────

OPENAI_WORD = b'data: {"choices":[{"delta":{"content":"word "}}]}\n\n'
OLLAMA_WORD = b'{"message":{"content":"word "},"done":false}\n'


def limited(num_predict: int | None) -> ChatRequest:
    return msgspec.structs.replace(HELLO, sampling=SamplingParams(num_predict=num_predict))


@pytest.mark.parametrize(("api", "piece"), [("openai", OPENAI_WORD), ("ollama", OLLAMA_WORD)])
def test_num_predict_is_kept_to(ask: Any, upstream: ScriptedServer, api: str, piece: bytes) -> None:
    """A server that keeps going is cut off after that many tokens, and the answer ends with ``length``."""
    outputs = ask(ScriptedReply(pieces=[piece], endless=True), api, request=limited(5))
    assert "".join(output.text for output in outputs if isinstance(output, Delta)) == "word " * 5
    assert isinstance(outputs[-1], Finished)
    assert (outputs[-1].reason, outputs[-1].usage.generated_tokens) == ("length", 5)
    assert upstream.left.wait(10)


def test_as_many_tokens_as_asked_for(ask: Any) -> None:
    """A server that respects the limit is read to the end: the finish reason and figures are its own."""
    last = b'data: {"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
    finished = ask(ScriptedReply(pieces=[OPENAI_WORD] * 5 + [last]), request=limited(5))[-1]
    assert (finished.reason, finished.usage.prompt_tokens) == ("stop", 7)


@pytest.mark.parametrize(("api", "piece"), [("openai", OPENAI_WORD), ("ollama", OLLAMA_WORD)])
def test_an_answer_has_a_largest_size(ask: Any, upstream: ScriptedServer, api: str, piece: bytes) -> None:
    """If the caller sets no limit, an endless answer is cut off, and the error names the setting."""
    with pytest.raises(UpstreamError, match="longer than 1024 bytes") as caught:
        ask(ScriptedReply(pieces=[piece], endless=True), api, max_answer_bytes=1024)
    assert "max_answer_bytes" in str(caught.value.remedy)
    assert upstream.left.wait(10)


@pytest.mark.parametrize(
    ("api", "piece"),
    [
        ("openai", b'data: {"choices":[{"delta":{"content":""}}]}\n\n'),
        ("openai", b'data: {"choices":[]}\n\n'),
        ("openai", b"data: null\n\n"),
        ("openai", b": still here\n\n"),
        ("openai", b"event: ping\n\n"),
        ("openai", b"\n"),
        ("ollama", b'{"message":{"content":""},"done":false}\n'),
        ("ollama", b"null\n"),
        ("ollama", b"\n"),
    ],
)
def test_an_answer_without_words_is_left(
    ask: Any, upstream: ScriptedServer, monkeypatch: pytest.MonkeyPatch, api: str, piece: bytes
) -> None:
    """No token limit ends it, yet reading it costs as much as any other answer, so it has its own limit."""
    for module in (lines, progress):
        monkeypatch.setattr(module, "IDLE_LIMIT_BYTES", 20_000)
    with pytest.raises(UpstreamError, match="sent 20000 bytes without"):
        ask(ScriptedReply(pieces=[piece * 100], endless=True), api, request=limited(5))
    assert upstream.left.wait(10)


@pytest.mark.parametrize("values", [b"[],", b"{},", b"0,", b'"",'])
def test_vectors_of_too_many_values(values: bytes) -> None:
    """They are refused before they are decoded."""
    body = b'{"data":[{"embedding":[' + values * 20_000 + b"0]}]}"
    tracemalloc.start()
    try:
        with pytest.raises(UpstreamError, match="too long for the 1 vectors requested"):
            openai_answers.read_vectors(body, "there", 1)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# ── Servers that repeat what they were sent ───────────────────────────────────────────────────────────────────────

KEY = 'sk-"inmost"-0123456789'


@pytest.mark.parametrize("api", ["openai", "ollama"])
@pytest.mark.parametrize(
    "reply",
    [
        ScriptedReply(status=401, body={"error": {"message": f"Incorrect key: {KEY}"}}),
        ScriptedReply(status=400, body=f"<p>authorization: Bearer {KEY}</p>".encode()),
        ScriptedReply(status=500, body={"error": "x" * 380 + KEY}),
        ScriptedReply(status=307, body={}, headers={"location": f"http://elsewhere/{KEY}"}),
        ScriptedReply(body={"error": f"no such key {KEY}"}),
        ScriptedReply(body=f"<html>{KEY}</html>".encode()),
        ScriptedReply(pieces=[b"data: " + json.dumps({"error": {"message": KEY}}).encode() + b"\n\n"]),
        ScriptedReply(pieces=[b"data: {" + KEY.encode() + b"\n\n"]),
        ScriptedReply(pieces=[json.dumps({"error": f"{KEY} and team-4711"}).encode() + b"\n"]),
        ScriptedReply(pieces=[KEY.encode() + b"\n"]),
    ],
)
def test_secrets_in_errors(ask: Any, upstream: ScriptedServer, caplog: Any, api: str, reply: ScriptedReply) -> None:
    """A key or a header's value that a server repeats reaches neither the caller nor the log, nor does most of it."""
    hosts = {upstream.url: {"key": KEY, "headers": {"x-team": "team-4711"}}}
    with caplog.at_level(0, "corral"), pytest.raises(CorralError) as caught:
        ask(reply, api, hosts=hosts)
    logged = "".join([record.getMessage() for record in caplog.records if record.name.startswith("corral")])
    shown = "".join(traceback.format_exception(caught.value)) + str(caught.value.info) + logged
    for secret in ("0123456789", "inmost", "team-4711"):
        assert secret not in shown


def test_secrets_in_what_a_server_offers(load_upstream: Any, upstream: ScriptedServer) -> None:
    """The same holds while it is asked for its models."""
    upstream.replies["/v1/models"] = ScriptedReply(body={"data": [{"id": f"{KEY}-1"}, {"id": "other"}]})
    with pytest.raises(UpstreamError) as caught:
        asyncio.run(load_upstream(upstream.url, api="openai", hosts={upstream.url: {"key": KEY}}))
    assert "0123456789" not in str(caught.value.info)
    assert "[hidden]-1, other" in str(caught.value.remedy)


def test_a_model_named_like_the_key(load_upstream: Any, upstream: ScriptedServer) -> None:
    """It is refused: a model's name ends up in the manifest, and every client may see it."""
    upstream.replies["/v1/models"] = ScriptedReply(body={"data": [{"id": f"m-{KEY}"}]})
    with pytest.raises(UpstreamError, match=r"m-\[hidden\]"):
        asyncio.run(load_upstream(upstream.url, api="openai", model=f"m-{KEY}", hosts={upstream.url: {"key": KEY}}))


def test_short_values_are_no_secrets() -> None:
    """A header whose value is one digit is not hidden in every number."""
    assert Secrets(["1", ""]).hidden_in("11 tokens") == "11 tokens"
