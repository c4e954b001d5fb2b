"""Random answers, streamed by each API and read by its vendor's own client: what comes out is what the engine said."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import anthropic
import msgspec
import ollama
import openai
import pytest

from corral.adapters.engines.fake import SPEC
from corral.adapters.engines.fake.options import FakeLoadOptions
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import LoadRequest
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import running_server
from tests.api.scripted_engine import FAILURE, Script, ScriptedEngine

ANSWERS = 200
TAGS = "{% if false %}<think></think><tool_call></tool_call>{% endif %}"
TEMPLATE = f"{{{{ messages[-1].content }}}}{{{{ tools | tojson if tools }}}}{TAGS}"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
NAMES = ("weather", "sunset")
LETTERS = (
    *"abc xyz.,!?'\"\\/{}[]:<>&%#\n\t\x85\u2028\u2029\u00a0",
    *("é", "ß", "日本", "語", "🙂", "👩\u200d👩\u200d👧", "e\u0301", "𝔘", "</", "<t"),
)


class Said(NamedTuple):
    """What an answer consists of, and the tokens in which it comes. One that `fails` ends with an error instead."""

    thinking: str
    text: str
    calls: tuple[tuple[str, Mapping[str, Any]], ...]
    pieces: tuple[bytes, ...]
    fails: bool


def text(chance: random.Random, most: int) -> str:
    """Some text that neither begins nor ends with spaces."""
    return "".join(chance.choices(LETTERS, k=chance.randint(1, most))).strip() or "x"


def random_answer(seed: int) -> Said:
    chance = random.Random(seed)
    thinking = text(chance, 30) if chance.random() < 0.5 else ""
    said = text(chance, 40) if chance.random() < 0.8 else ""
    calls = tuple(
        (chance.choice(NAMES), {"city": text(chance, 12), "days": chance.randint(-9, 9)})
        for _ in range(chance.choice((0, 0, 1, 2)))
    )
    if not said and not calls:
        said = "y"
    whole = (f"<think>{thinking}</think>" if thinking else "") + said
    for name, arguments in calls:
        call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=chance.random() < 0.3)
        whole += f"<tool_call>\n{call}\n</tool_call>"
    data = whole.encode()
    cuts = sorted({0, len(data), *(chance.randrange(len(data)) for _ in range(chance.randint(0, len(data) // 2)))})
    pieces = tuple(data[start:end] for start, end in itertools.pairwise(cuts))
    fails = chance.random() < 0.2
    return Said(thinking, said, calls, pieces[: chance.randint(0, len(pieces))] if fails else pieces, fails)


SCRIPTS = [random_answer(seed) for seed in range(ANSWERS)]


class NumberedEngine(ScriptedEngine):
    """Says what is written for the number in the prompt."""

    def script(self, prompt: str) -> Script:
        [number] = re.findall(r"script (\d+)", prompt)
        return Script(SCRIPTS[int(number)].pieces, SCRIPTS[int(number)].fails)


def load_numbered(request: LoadRequest, on_progress: OnLoadProgress) -> NumberedEngine:
    return NumberedEngine(msgspec.convert(request.load_options, FakeLoadOptions))


NUMBERED = msgspec.structs.replace(SPEC, load="tests.api.test_random_answers:load_numbered")


class Heard:
    """What a client has made of a stream."""

    def __init__(self) -> None:
        self.thinking = ""
        self.text = ""
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.reason: str | None = None
        self.failure: str | None = None


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    weights = gguf_bytes({**SMALL_MODEL, "llama.context_length": 4096, "tokenizer.chat_template": TEMPLATE})
    with running_server(engine={}, engines=(NUMBERED,)) as server:
        server.call(lambda _: server.world.add("scripted", data=weights))
        yield server.url
        assert server.active() == 0


def messages(number: int) -> Any:
    return [{"role": "user", "content": f"script {number} "}]


class Ollama:
    """``/api/chat``, by the official client of Ollama."""

    def __init__(self, url: str) -> None:
        self._client = ollama.Client(host=url)
        self._tools: Any = [
            {"type": "function", "function": {"name": name, "description": "Tells it", "parameters": PARAMETERS}}
            for name in NAMES
        ]

    def __call__(self, number: int, heard: Heard) -> None:
        try:
            for part in self._client.chat("scripted", messages(number), tools=self._tools, stream=True, think=True):
                heard.thinking += part.message.thinking or ""
                heard.text += part.message.content or ""
                heard.calls += [(call.function.name, call.function.arguments) for call in part.message.tool_calls or ()]
                heard.reason = part.done_reason
        except ollama.ResponseError as error:
            heard.failure = str(error)

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]


class OpenAI:
    """``/v1/chat/completions``, by OpenAI's client; its own helper joins the chunks."""

    def __init__(self, url: str) -> None:
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self._tools: Any = [
            {"type": "function", "function": {"name": name, "description": "Tells it", "parameters": PARAMETERS}}
            for name in NAMES
        ]

    def __call__(self, number: int, heard: Heard) -> None:
        try:
            with self._client.chat.completions.stream(
                model="scripted", messages=messages(number), tools=self._tools
            ) as stream:
                for event in stream:
                    if event.type == "chunk" and event.chunk.choices:
                        delta = event.chunk.choices[0].delta
                        heard.thinking += (delta.model_extra or {}).get("reasoning", "")
                        heard.text += delta.content or ""
                [choice] = stream.get_final_completion().choices
        except openai.APIError as error:
            heard.failure = error.message
            return
        assert heard.text == choice.message.content
        calls = [call.function for call in choice.message.tool_calls or ()]
        heard.calls = [(call.name, json.loads(call.arguments)) for call in calls]
        assert choice.finish_reason == ("tool_calls" if calls else "stop")
        heard.reason = "stop"

    def close(self) -> None:
        self._client.close()


class Responses:
    """``/v1/responses``, by OpenAI's client and its own helper. Every second goes on in the background."""

    def __init__(self, url: str) -> None:
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self._tools: Any = [
            {"type": "function", "name": name, "description": "Tells it", "parameters": PARAMETERS, "strict": False}
            for name in NAMES
        ]

    def __call__(self, number: int, heard: Heard) -> None:
        try:
            with self._client.responses.stream(
                model="scripted", input=messages(number), tools=self._tools, background=number % 2 > 0
            ) as stream:
                for event in stream:
                    if event.type == "response.reasoning_summary_text.delta":
                        heard.thinking += event.delta
                    if event.type == "response.output_text.delta":
                        heard.text += event.delta
                    if event.type == "error":
                        heard.failure = event.message
                if heard.failure is not None:
                    return
                final = stream.get_final_response()
        except openai.APIError as error:
            heard.failure = error.message
            return
        assert heard.text == final.output_text
        assert heard.thinking == "".join(
            part.text for item in final.output if item.type == "reasoning" for part in item.summary
        )
        calls = [item for item in final.output if item.type == "function_call"]
        heard.calls = [(call.name, json.loads(call.arguments)) for call in calls]
        assert final.status == "completed"
        heard.reason = "stop"

    def close(self) -> None:
        self._client.close()


class Anthropic:
    """``/v1/messages``, by Anthropic's client; its own helper joins the events."""

    def __init__(self, url: str) -> None:
        self._client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
        self._tools: Any = [{"name": name, "description": "Tells it", "input_schema": PARAMETERS} for name in NAMES]

    def __call__(self, number: int, heard: Heard) -> None:
        try:
            with self._client.messages.stream(
                model="scripted", max_tokens=4000, messages=messages(number), tools=self._tools
            ) as stream:
                for event in stream:
                    if event.type == "thinking":
                        heard.thinking += event.thinking
                    if event.type == "text":
                        heard.text += event.text
                final = stream.get_final_message()
        except anthropic.APIError as error:
            heard.failure = error.message
            return
        assert heard.text == "".join(block.text for block in final.content if block.type == "text")
        assert heard.thinking == "".join(block.thinking for block in final.content if block.type == "thinking")
        uses = [block for block in final.content if block.type == "tool_use"]
        heard.calls = [(use.name, dict(use.input)) for use in uses]
        assert final.stop_reason == ("tool_use" if uses else "end_turn")
        heard.reason = "stop"

    def close(self) -> None:
        self._client.close()


@pytest.mark.parametrize("vendor", [Ollama, OpenAI, Responses, Anthropic])
def test_what_comes_out_is_what_the_engine_said(
    url: str, vendor: type[Ollama | OpenAI | Responses | Anthropic]
) -> None:
    """Thinking, text and calls, however the tokens cut them; an answer that fails ends with the error, after what was
    said before it.
    """
    with contextlib.closing(vendor(url)) as client:
        for number, said in enumerate(SCRIPTS):
            heard = Heard()
            client(number, heard)
            if said.fails:
                assert heard.failure is not None, number
                assert FAILURE in heard.failure
                assert said.thinking.startswith(heard.thinking), number
                assert said.text.startswith(heard.text), number
                continue
            assert heard.failure is None, number
            found = (heard.thinking, heard.text, heard.calls, heard.reason)
            assert found == (said.thinking, said.text, list(said.calls), "stop"), number
