"""One model on several engines, and several engines in one server."""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.native

SMOLLM2 = "smollm2-135m-instruct:q4_1"
ENGINES = ("llama-cpp", "onnx-genai", "ctransformers")
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def emptied_server(server: Any) -> Iterator[Any]:
    """The shared server; its models are unloaded when the test is over."""
    yield server
    assert server.post("/api/generate", {"model": SMOLLM2, "keep_alive": 0}).status_code == 200
    assert server.running() == []


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_model_on_every_engine(engine: str, emptied_server: Any) -> None:
    """It completes a sentence with the right word, and holds a chat that remembers its first turn."""
    server = emptied_server
    options = {"engine": engine, "temperature": 0, "num_predict": 6}
    told = server.generate(options=options)
    assert told.status_code == 200, told.text
    assert "Paris" in told.json()["response"]
    turns = [
        {"role": "user", "content": "The magic word is pineapple."},
        {"role": "assistant", "content": "The magic word is pineapple."},
        {"role": "user", "content": "Say the magic word."},
    ]
    body = {"model": SMOLLM2, "messages": turns, "stream": False, "options": options | {"num_predict": 24}}
    said = server.post("/api/chat", body, timeout_s=180)
    assert said.status_code == 200, said.text
    assert "pineapple" in said.json()["message"]["content"]
    [loaded] = [model for model in server.running() if model["corral"]["engine"] == engine]
    assert loaded["model"] == SMOLLM2


def test_the_readmes_line_for_llama_cpp(corral: Callable[..., Any]) -> None:
    """The printed command gives the right word unchanged; the quick start covers the engines that need no compiler."""
    [line] = [line for line in README.splitlines() if line.startswith("corral run") and "--engine llama-cpp" in line]
    done = corral(*shlex.split(line)[1:], "--local", "-o", "temperature=0")
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


class _Stream(threading.Thread):
    """One answer, read to its end in a thread: its text, or the error that ended it."""

    def __init__(self, url: str, model: str, prompt: str, tokens: int = 24) -> None:
        super().__init__()
        self.text, self.error = "", ""
        self.begun = threading.Event()
        options = {"temperature": 0, "num_predict": tokens, "ignore_eos": True, "num_ctx": 2048}
        self._url, self._body = url, {"model": model, "prompt": prompt, "raw": True, "options": options}

    def run(self) -> None:
        try:
            with httpx.stream("POST", f"{self._url}/api/generate", json=self._body, timeout=120) as response:
                for line in response.iter_lines():
                    chunk = json.loads(line)
                    self.text += chunk.get("response", "")
                    self.error = chunk.get("error", "")
                    self.begun.set()
        finally:
            self.begun.set()


def test_two_engines_under_load_and_one_is_killed(start_server: Callable[..., Any], corral: Callable[..., Any]) -> None:
    """The other engine's answers do not change; those of the killed one end with an error, and it is loaded again."""
    assert corral("cp", SMOLLM2, "second").returncode == 0
    prompts = ["Once upon a time", "The sea is", "A horse that could count"]
    with start_server('models.second.engine="onnx-genai"') as server:
        alone = {}
        for prompt in prompts:
            stream = _Stream(server.url, SMOLLM2, prompt)
            stream.start()
            stream.join()
            alone[prompt] = stream.text
            assert stream.text
        others = [_Stream(server.url, "second", prompt, tokens=100_000) for prompt in prompts]
        for stream in others:
            stream.start()
        for stream in others:
            assert stream.begun.wait(120)
        ours = [_Stream(server.url, SMOLLM2, prompt) for prompt in prompts]
        for stream in ours:
            stream.start()
        for stream in ours:
            assert stream.begun.wait(120)
        children = {model["corral"]["engine"]: model["corral"]["process_id"] for model in server.running()}
        assert set(children) == {"llama-cpp", "onnx-genai"}
        os.kill(children["onnx-genai"], signal.SIGKILL)
        for stream in (*ours, *others):
            stream.join(120)
        assert {prompt: stream.text for prompt, stream in zip(prompts, ours, strict=True)} == alone
        assert not any(stream.error for stream in ours)
        assert all("SIGKILL" in stream.error for stream in others)
        again = _Stream(server.url, "second", prompts[0])
        again.start()
        again.join(120)
        assert again.text
        assert not again.error
        assert {model["corral"]["process_id"] for model in server.running()} - set(children.values())
