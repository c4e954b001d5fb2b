"""Tools with real weights: a model too small to choose well calls what it has to, and answers with what came of it.

CORRAL_TOOL_CALLS sets how many calls each engine is asked for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from corral import Corral
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
    for seed in range(CALLS):
        answer = corral.chat(
            messages=QUESTIONS[seed % len(QUESTIONS)],
            tools=TOOLS,
            tool_choice="required",
            options={"seed": seed, "temperature": 1, "num_predict": 512},
            stream=seed % 2 == 1,
            **model,
        )
        calls = [call for chunk in answer for call in chunk.tool_calls] if seed % 2 else answer.message.tool_calls
        result = answer.result if seed % 2 else answer
        assert calls, (seed, result)
        assert (result.text, result.warnings, result.finish_reason) == ("", (), "stop"), seed
        for call in calls:
            jsonschema_rs.validate(SCHEMAS[call.name], call.arguments)


def test_the_model_answers_with_the_result(corral: Corral, model: dict[str, Any]) -> None:
    """What the function returned reaches the model, and its answer repeats it."""

    def get_weather(city: str) -> str:
        """The weather in a city."""
        return "The weather is sunny and the temperature is 23 degrees."

    question = "What is the weather in Paris? Use get_weather."
    choice = {"type": "function", "function": {"name": "get_weather"}}
    for stream in (False, True):
        answer = corral.chat(
            messages=question,
            tools=[get_weather],
            tool_choice=choice,
            run_tools=True,
            options={"temperature": 0, "num_predict": 60},
            stream=stream,
            **model,
        )
        if stream:
            assert [chunk.tool_results[0].failed for chunk in answer if chunk.tool_results] == [False]
        result = answer.result if stream else answer
        assert [message.role for message in result.messages] == ["assistant", "tool", "assistant"]
        assert "23" in result.text


def test_strict_arguments_of_a_free_call(corral: Corral, model: dict[str, Any]) -> None:
    """Once the model begins a call by itself, its arguments are held to the schema."""
    for seed in range(CALLS):
        begun = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": "Let me see.\n"}]
        bias = {"logit_bias": {"<": 100}}
        answer = corral.chat(
            messages=begun,
            tools=TOOLS,
            options={"seed": seed, "temperature": 0.7, "num_predict": 200} | bias,
            **model,
        )
        for call in answer.message.tool_calls:
            jsonschema_rs.validate(SCHEMAS[call.name], call.arguments)
