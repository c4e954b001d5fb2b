"""Tools with real weights: a model too small to choose well calls what it has to, and answers with what came of it.

CORRAL_TOOL_CALLS sets how many calls each engine is asked for.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from corral import AsyncCorral, Corral
from corral.api.library.results import ChatResult
from corral.core.models.model import Model, TemplateText
from corral.core.models.names import parse_name
from corral.core.values import fields_in_common

pytestmark = pytest.mark.native

CALLS = int(os.environ.get("CORRAL_TOOL_CALLS") or 2)
TEMPLATE = """{%- if tools %}<|im_start|>system
You are a helpful assistant. You may call these functions:
{% for tool in tools %}{{ tool.function | tojson }}
{% endfor %}Write a call as <tool_call>
{"name": "a name", "arguments": {}}
</tool_call><|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ 'user' if message.role == 'tool' else message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
"""

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2, "maxLength": 40},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "unit"],
}
ORDER = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 20}, "count": {"type": "integer", "minimum": 1}},
                "required": ["name", "count"],
            },
        },
        "gift": {"type": "boolean"},
        "note": {"anyOf": [{"type": "string", "maxLength": 30}, {"type": "null"}]},
    },
    "required": ["items", "gift"],
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": WEATHER,
    "place_order": ORDER,
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": schema, "strict": True}}
    for name, schema in SCHEMAS.items()
]
QUESTIONS = ("What is the weather in Paris?", "I want two apples.", "What time is it?", "Tell me a joke.")


@pytest.fixture(scope="module")
def corral(tmp_path_factory: pytest.TempPathFactory, smollm2: Path, smollm2_onnx: Path) -> Iterator[Corral]:
    """SmolLM2 with a template that has tools, as GGUF and as an ONNX folder: its own template has none."""
    root = tmp_path_factory.mktemp("tools")
    folder = root / "onnx"
    shutil.copytree(smollm2_onnx, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with Corral(models=root / "store", runner="process", config="") as corral:
        corral.import_model(folder, name="smol-onnx")
        record = corral.import_model(smollm2, name="smol-bare")
        files = tuple(msgspec.structs.replace(file, path="model.gguf") for file in record.files_of("weights"))
        template = TemplateText(kind="jinja", text=TEMPLATE)
        model = Model(**fields_in_common(record, Model) | {"template": template, "files": files})
        catalog = corral.runtime().catalog
        corral.call(lambda _: catalog.publish(parse_name("smol-gguf"), model))
        yield corral


@pytest.fixture(params=[("smol-gguf", "llama-cpp"), ("smol-onnx", "onnx-genai")], ids=lambda one: one[1])
def model(request: pytest.FixtureRequest, corral: Corral) -> Iterator[dict[str, Any]]:
    """The arguments that name a model and its engine."""
    name, engine = request.param
    assert "tools" in corral.show(name).capabilities
    yield {"model": name, "engine": engine}
    corral.unload(name)


def test_a_required_call_is_one(corral: Corral, model: dict[str, Any]) -> None:
    """At any temperature, streamed and not, it is read, and its arguments fit the schema."""

    async def called(client: AsyncCorral, seed: int) -> ChatResult:
        how: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", **model}
        how["options"] = {"seed": seed, "temperature": 1, "num_predict": 512}
        question = QUESTIONS[seed % len(QUESTIONS)]
        if seed % 2:
            whole: ChatResult = await client.chat(messages=question, **how)
            return whole
        stream = await client.chat(messages=question, stream=True, **how)
        calls = [call async for chunk in stream for call in chunk.tool_calls]
        parts: ChatResult = stream.result
        assert tuple(calls) == parts.message.tool_calls
        return parts

    async def all_of_them(client: AsyncCorral) -> list[ChatResult]:
        at_once = asyncio.Semaphore(8)

        async def one(seed: int) -> ChatResult:
            async with at_once:
                return await called(client, seed)

        return await asyncio.gather(*map(one, seeds))

    seeds = range(1, CALLS + 1)  # the first two give short answers
    for seed, answer in zip(seeds, corral.call(all_of_them), strict=True):
        assert (answer.text, answer.warnings, answer.finish_reason) == ("", (), "stop"), (seed, answer)
        assert answer.message.tool_calls, (seed, answer)
        for call in answer.message.tool_calls:
            jsonschema_rs.validate(SCHEMAS[call.name], call.arguments)


def test_the_model_answers_with_the_result(corral: Corral, model: dict[str, Any]) -> None:
    """What the function returned reaches the model, and its answer repeats it."""

    def get_weather(city: str) -> str:
        """The weather in a city."""
        return "The weather is sunny and the temperature is 23 degrees."

    question = "What is the weather in Paris? Use get_weather."
    choice = {"type": "function", "function": {"name": "get_weather"}}
    how: dict[str, Any] = {"tools": [get_weather], "tool_choice": choice, "run_tools": True, **model}
    with corral.chat(messages=question, stream=True, options={"temperature": 0, "num_predict": 40}, **how) as stream:
        assert [chunk.tool_results[0].failed for chunk in stream if chunk.tool_results] == [False]
    assert [message.role for message in stream.result.messages] == ["assistant", "tool", "assistant"]
    assert "23" in stream.result.text
