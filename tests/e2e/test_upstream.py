"""Corral in front of other real servers: a second Corral, llama-server, and servers that are killed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.native

SMOLLM2 = "smollm2-135m-instruct:q4_1"
PARIS = {"prompt": "The capital of France is", "raw": True, "stream": False}
GREEDY = {"temperature": 0, "num_predict": 8}
FRANCE = [{"role": "user", "content": "What do people eat in France?"}]
ENDLESS = {"ignore_eos": True, "num_predict": 100_000, "temperature": 0}
# Made-up words: what is tested with it is who answers, and not what.
FAKE = ("scheduler.engine=fake", "engines.fake.step_delay_s=0.02")

Start = Callable[..., Any]
Corral = Callable[..., Any]
Within = Callable[[float, Callable[[], bool]], bool]


def added(corral: Corral, name: str, *urls: str, model: str = SMOLLM2) -> None:
    done = corral("upstream", name, *urls, "--model", model)
    assert done.returncode == 0, done.stderr


def test_the_same_words_through_a_second_corral(server: Any, start_server: Start, corral: Corral) -> None:
    """A chat, a prompt, a raw prompt and vectors are the same as from the server that computes them."""
    added(corral, "far", server.url)
    with start_server() as front:
        for path, body in (
            ("/api/chat", {"messages": FRANCE, "stream": False}),
            ("/api/generate", {"prompt": "Why is the sky blue?", "stream": False}),
            ("/api/generate", PARIS),
        ):
            near, far = (
                one.post(path, body | {"model": model, "options": GREEDY}).json()
                for one, model in ((server, SMOLLM2), (front, "far"))
            )
            assert (far["remote_model"], far["remote_host"]) == (SMOLLM2, server.url)
            for key in ("response", "message", "done_reason", "eval_count", "prompt_eval_count"):
                assert far.get(key) == near.get(key)
        body = {"input": ["a horse", "the moon"]}
        near, far = (
            one.post("/api/embed", body | {"model": model}).json()["embeddings"]
            for one, model in ((server, SMOLLM2), (front, "far"))
        )
        assert [sum(map(float.__mul__, *pair)) for pair in zip(near, far, strict=True)] == pytest.approx([1.0, 1.0])
        [running] = front.running()
        assert (running["size"], running["corral"]["runner"]) == (0, "event_loop")
    assert corral("run", "far", "The capital of France is", "-o", "num_predict=4").returncode == 0


def test_leaving_reaches_the_engine(server: Any, start_server: Start, corral: Corral, within: Within) -> None:
    """A client that disconnects ends the computation two servers away."""
    added(corral, "far", server.url)
    with start_server() as front:
        body = {"model": "far", "messages": FRANCE, "options": ENDLESS}
        with httpx.stream("POST", front.url + "/api/chat", json=body, timeout=60) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines))["message"]["content"]
            assert (front.active(), server.active()) == (1, 1)
        assert within(30, lambda: front.active() == 0 and server.active() == 0)


def test_a_server_dies_before_its_first_token(start_server: Start, corral: Corral) -> None:
    """The other server answers every request."""
    with start_server(*FAKE) as one, start_server(*FAKE) as two, start_server() as front:
        added(corral, "pair", one.url, two.url)
        body = {"model": "pair", "messages": FRANCE, "stream": False, "options": {"num_predict": 4}}
        assert front.post("/api/chat", body).status_code == 200
        one.process.kill()
        one.process.wait()
        for _ in range(4):
            answer = front.post("/api/chat", body)
            assert (answer.status_code, answer.json().get("done")) == (200, True), answer.text
        two.process.kill()
        two.process.wait()
        answer = front.post("/api/chat", body)
        assert answer.status_code == 502
        assert "no server answers at" in answer.json()["error"]


def test_a_server_dies_in_the_middle(start_server: Start, corral: Corral) -> None:
    """The reader's error names the server and says that the answer is incomplete; the next request goes to the
    other."""
    with start_server(*FAKE) as one, start_server(*FAKE) as two, start_server() as front:
        added(corral, "pair", one.url, two.url)
        body = {"model": "pair", "messages": FRANCE, "options": ENDLESS}
        with httpx.stream("POST", front.url + "/api/chat", json=body, timeout=60) as response:
            lines = (json.loads(line) for line in response.iter_lines())
            assert next(lines)["message"]["content"]
            one.process.kill()
            *_, last = lines
        assert "closed the connection in the middle of its answer" in last["error"]
        assert one.url in last["error"]
        assert front.post("/api/chat", body | {"options": GREEDY, "stream": False}).status_code == 200
        assert two.active() == 0


@pytest.fixture(scope="module")
def llama_server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a llama-server with SmolLM2."""
    command = shutil.which("llama-server")
    if command is None:
        pytest.skip("llama-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    arguments = [command, "-m", str(smollm2), "-np", "2", "-c", "4096", "-t", "2", "--port", str(port)]
    log = tmp_path_factory.mktemp("llama-server") / "log"
    with log.open("wb") as output, subprocess.Popen(arguments, stdout=output, stderr=output) as process:
        try:
            deadline_s = time.monotonic() + 60
            while not _healthy(url):
                assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                assert time.monotonic() < deadline_s, "llama-server does not get ready"
                time.sleep(0.1)
            yield url
        finally:
            process.kill()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url + "/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def far(llama_server: str, corral: Corral) -> str:
    """The model behind llama-server."""
    done = corral("upstream", "far", llama_server)
    assert done.returncode == 0, done.stderr
    return "far"


def test_llama_server(far: str, llama_server: str, server: Any) -> None:
    """Chats, prompts and raw prompts are answered, and the facts that the server reports are shown."""
    raw = server.post("/api/generate", PARIS | {"model": far, "options": GREEDY}).json()
    assert raw["response"].startswith(" Paris")
    assert (raw["eval_count"], raw["prompt_eval_count"], raw["done_reason"]) == (8, 5, "length")
    body = {"model": far, "messages": FRANCE, "options": GREEDY, "logprobs": True, "top_logprobs": 2}
    lines = [json.loads(line) for line in server.post("/api/chat", body).text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines)
    assert all(len(entry["top_logprobs"]) == 2 for line in lines for entry in line.get("logprobs", ()))
    assert lines[-1]["eval_count"] == 8
    assert "ignored_options" not in lines[-1]
    shown = server.post("/api/show", {"model": far}).json()
    assert (shown["remote_host"], shown["details"]["context_length"]) == (llama_server, 2048)


def test_llama_server_takes_every_option(far: str, server: Any) -> None:
    """llama-server accepts all options at once; only the context length cannot be chosen."""
    options = {
        "temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.99, "repeat_last_n": 9,
        "repeat_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1, "seed": 3, "num_predict": 4,
        "stop": ["END"], "ignore_eos": True, "logit_bias": [[5, False], ["no", 0.5]], "dynatemp_range": 0.1,
        "dynatemp_exponent": 1.5, "dry_multiplier": 0.5, "dry_base": 2.0, "dry_allowed_length": 3,
        "dry_penalty_last_n": 64, "dry_sequence_breakers": ["\n"], "xtc_probability": 0.1, "xtc_threshold": 0.2,
        "top_n_sigma": 2.0, "mirostat": 0, "mirostat_tau": 4.0, "mirostat_eta": 0.2, "num_ctx": 512,
    }  # fmt: skip
    answer = server.post("/api/chat", {"model": far, "messages": FRANCE, "options": options, "stream": False})
    assert answer.status_code == 200, answer.text
    assert answer.json()["ignored_options"] == ["num_ctx"]
    assert answer.json()["eval_count"] == 4


def test_llama_server_holds_to_a_schema(far: str, server: Any) -> None:
    """`format` is its response format."""
    cities = ["Paris", "Rome"]
    schema = {"type": "object", "properties": {"city": {"enum": cities}}, "required": ["city"]}
    body = {"model": far, "messages": FRANCE, "format": schema, "stream": False, "options": {"num_predict": 64}}
    answer = server.post("/api/chat", body).json()
    assert json.loads(answer["message"]["content"])["city"] in cities


def test_llama_server_refuses(far: str, server: Any) -> None:
    """A prompt that is too long is 400 with Ollama's text; vectors that it was not started for are 400 with its own."""
    long = server.post("/api/chat", {"model": far, "messages": [{"role": "user", "content": "word " * 5000}]})
    assert long.status_code == 400
    assert "longer than the context length" in long.json()["error"]
    vectors = server.post("/api/embed", {"model": far, "input": "a"})
    assert vectors.status_code == 400
    assert "does not support embeddings" in vectors.json()["error"]


def test_leaving_reaches_llama_server(far: str, llama_server: str, server: Any, within: Within) -> None:
    """It stops computing for a client that has disconnected."""
    body = {"model": far, "messages": FRANCE, "options": ENDLESS}
    with httpx.stream("POST", server.url + "/api/chat", json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["message"]["content"]
        assert _busy(llama_server)
    assert within(60, lambda: not _busy(llama_server))


def _busy(url: str) -> bool:
    return any(slot["is_processing"] for slot in httpx.get(url + "/slots", timeout=10).json())
