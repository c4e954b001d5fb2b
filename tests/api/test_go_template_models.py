"""Models whose manifests have a Go template, and Go templates in requests, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from corral.core.models.model import TemplateText
from corral.core.runtime import Runtime
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import LiveServer, running_server

_CHATML = """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
_LEGACY = "{{ if .System }}S: {{ .System }}\n{{ end }}{{ if .Prompt }}Q: {{ .Prompt }}\n{{ end }}A: {{ .Response }}\n"
_MODELS = {
    "chatml": (_CHATML, None),
    "legacy": (_LEGACY, None),
    "infill": ("<P>{{ .Prompt }}<S>{{ .Suffix }}<M>{{ .Response }}", None),
    "broken": ("{{ if .System }}", None),
    "failing": ("{{ range .Messages }}{{ .Nope }}{{ end }}", None),
    "weights": ("{{ .Prompt }}", "{% if tools %}{% endif %}{% for m in messages %}[{{ m.content }}]{% endfor %}"),
}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running_server({"answer": "yes"}) as live, httpx.Client(base_url=live.url, timeout=60) as http:
        _add_models(live)
        yield http


def _add_models(live: LiveServer) -> None:
    async def add(runtime: Runtime) -> None:
        for name, (own, weights) in _MODELS.items():
            pairs = {key: value for key, value in SMALL_MODEL.items() if key != "tokenizer.chat_template"}
            data = gguf_bytes(
                {**pairs, "general.name": name} | ({"tokenizer.chat_template": weights} if weights else {})
            )
            await live.world.add(name, data=data, template=TemplateText(kind="go", text=own))

    live.call(add)


def _prompt(client: httpx.Client, route: str, model: str, **body: Any) -> str:
    reply = client.post(route, json={"model": model, "stream": False, "_debug_render_only": True, **body})
    assert reply.status_code == 200, reply.text
    prompt: str = reply.json()["_debug_info"]["rendered_template"]
    return prompt


def test_a_chat_is_rendered_with_the_template_layer(client: httpx.Client) -> None:
    """The prompt is Go's, and the model answers it."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi <|im_end|>"}]
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert _prompt(client, "/api/chat", "chatml", messages=messages) == expected
    answer = client.post("/api/chat", json={"model": "chatml", "stream": False, "messages": messages})
    assert answer.json()["message"]["content"] == "yes"


def test_a_legacy_template_is_rendered_in_turns(client: httpx.Client) -> None:
    """Once per turn, and up to the answer in the last one."""
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert _prompt(client, "/api/chat", "legacy", messages=messages) == "S: s\nQ: a\nA: b\nQ: c\nA: "
    assert _prompt(client, "/api/generate", "legacy", prompt="x", system="y") == "S: y\nQ: x\nA: "


def test_prompt_and_suffix(client: httpx.Client) -> None:
    """A template with a place for a suffix makes a model that can insert."""
    assert _prompt(client, "/api/generate", "infill", prompt="a", suffix="b") == "<P>a<S>b<M>"
    assert "insert" in client.post("/api/show", json={"model": "infill"}).json()["capabilities"]


def test_a_template_in_a_request_replaces_the_models(client: httpx.Client) -> None:
    """It is rendered instead; one that is broken, or fails, is an error in Go's words."""
    assert _prompt(client, "/api/generate", "chatml", prompt="x", template="<{{ .Prompt }}>") == "<x>"
    for template, complaint in (
        ("{{ .Prompt }", 'template: :1: unexpected "}" in operand'),
        (
            "{{ index .Prompt 9 }}",
            'template: :1:3: executing "" at <index .Prompt 9>: error calling index: index out of range: 9',
        ),
    ):
        reply = client.post("/api/generate", json={"model": "chatml", "prompt": "x", "template": template})
        assert (reply.status_code, reply.json()["error"]) == (500, complaint)


def test_a_model_thinks_as_its_own_template_says() -> None:
    """With a template in the request that does not mention thinking, too: a format applies after the thinking."""
    with running_server({"answer": "<think>hm</think>{}"}) as live, httpx.Client(base_url=live.url) as http:
        _add_models(live)
        for more in ({}, {"format": "json"}):
            body = {"model": "chatml", "prompt": "x", "template": "{{ .Prompt }}", "stream": False, **more}
            answer = http.post("/api/generate", json=body).json()
            assert (answer["thinking"], answer["response"]) == ("hm", "{}")


def test_broken_templates_of_models(client: httpx.Client) -> None:
    """The error is Go's; one that does not compile names the model."""
    for model, complaint in (
        ("broken", "template: :1: unexpected EOF"),
        ("failing", "can't evaluate field Nope in type *template.templateMessage"),
    ):
        reply = client.post("/api/chat", json={"model": model, "messages": [{"role": "user", "content": "x"}]})
        assert reply.status_code == 500
        assert complaint in reply.json()["error"]


def test_show_has_the_template_that_is_used(client: httpx.Client) -> None:
    """The Go template, or that of the weights if it offers more; the capabilities follow from it."""
    shown = {name: client.post("/api/show", json={"model": name}).json() for name in ("chatml", "weights")}
    assert shown["chatml"]["template"] == _CHATML
    assert shown["chatml"]["capabilities"] == ["completion", "thinking"]
    assert shown["weights"]["template"] == _MODELS["weights"][1]
    assert shown["weights"]["capabilities"] == ["completion", "tools"]
    assert _prompt(client, "/api/generate", "weights", prompt="x") == "[x]"
