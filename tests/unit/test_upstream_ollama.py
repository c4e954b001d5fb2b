"""An upstream that speaks Ollama's API: Ollama itself, or another Corral."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from corral.core.errors import EngineDied, InvalidRequest, PromptTooLong, Unsupported, UpstreamError
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.outputs import Delta, Embedded, Finished, Output, Started, Usage
from corral.core.requests.prompts import MediaPart, TextPart
from corral.core.requests.requests import (
    ChatRequest,
    CompletionRequest,
    Constraint,
    ContextPolicy,
    EmbedRequest,
    Request,
    SamplingParams,
)
from corral.core.requests.tool_choice import ToolChoice
from corral.core.requests.vectors import rows
from corral.plugins.testing.images import png_bytes
from corral.plugins.testing.scripted_server import ScriptedReply, ScriptedServer

CHAT, GENERATE, EMBED = "/api/chat", "/api/generate", "/api/embed"
HELLO = ChatRequest(messages=(Message(role="user", content="Hello"),))
SHOWN = {
    "details": {"family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4_K_M"},
    "model_info": {"llama.context_length": 8192, "llama.embedding_length": 4096, "general.architecture": "llama"},
    "capabilities": ["completion", "tools", "thinking"],
}


def lines(*values: Any) -> list[bytes]:
    return [json.dumps(value).encode() + b"\n" for value in values]


def said(content: str | None = "", **fields: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": content, **fields}, "done": False}


LAST = {
    "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 9,
    "prompt_eval_duration": 70, "eval_count": 3, "eval_duration": 80, "cached_tokens": 4,
}  # fmt: skip
ANSWER = lines(said("Hi"), said(" you"), LAST)


@pytest.fixture(params=["ollama", "corral"])
def api(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def server(api: str, upstream: ScriptedServer) -> ScriptedServer:
    """One server of each kind, distinguished by its version reply."""
    upstream.replies |= {
        "/api/version": ScriptedReply(body={"version": "0.33.0"} | ({"corral": "0.2.0"} if api == "corral" else {})),
        "/api/tags": ScriptedReply(body={"models": [{"name": "m:latest"}, {"name": "other:7b"}]}),
        "/api/show": ScriptedReply(body=SHOWN),
    }
    return upstream


@pytest.fixture
def ask(api: str, server: ScriptedServer, load_upstream: Any) -> Callable[..., list[Output]]:
    """The outputs of one request to the model behind `server`."""

    def ask(request: Request) -> list[Output]:
        async def run() -> list[Output]:
            model = await load_upstream(server.url)
            try:
                assert model.info.details["remote api"] == api
                assert model.info.context_length == 8192
                return [output async for output in model.run(request)]
            finally:
                await model.aclose()

        return asyncio.run(run())

    return ask


def test_a_chat(server: ScriptedServer, ask: Any) -> None:
    """Content, thinking and tool calls are distinguished, and the last line's figures become the answer's."""
    call = {"id": "c1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Paris"}}}
    server.replies[CHAT] = ScriptedReply(pieces=lines(said(thinking="hm"), said("Hi"), said(tool_calls=[call]), LAST))
    outputs = ask(HELLO)
    assert outputs[0] == Started(prompt_tokens=None)
    deltas = [output for output in outputs if isinstance(output, Delta)]
    assert "".join(delta.thinking for delta in deltas) == "hm"
    assert "".join(delta.text for delta in deltas) == "Hi"
    expected = ToolCall(name="weather", arguments={"city": "Paris"}, id="c1")
    assert [call for delta in deltas for call in delta.tool_calls] == [expected]
    usage = Usage(prompt_tokens=9, cached_tokens=4, generated_tokens=3, prefill_ns=70, decode_ns=80)
    assert outputs[-1] == Finished(reason="stop", usage=usage)


def test_what_is_sent(server: ScriptedServer, ask: Any) -> None:
    """Messages with all their fields, tools, thinking, and a schema as `format`."""
    server.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    messages = (
        Message(role="user", content="?"),
        Message(role="assistant", thinking="hm", tool_calls=(ToolCall(name="time", arguments={"a": 1}, id="x"),)),
        Message(role="tool", content="noon", tool_name="time", tool_call_id="x"),
    )
    schema = {"type": "object"}
    ask(
        ChatRequest(
            messages=messages,
            tools=(Tool(name="time", parameters=schema),),
            think="low",
            constraint=Constraint(kind="json_schema", source=json.dumps(schema)),
            context=ContextPolicy(num_ctx=64, shift=False),
            logprobs=2,
        )
    )
    [body] = server.bodies(CHAT)
    assert body["messages"][1] == {
        "role": "assistant",
        "content": "",
        "thinking": "hm",
        "tool_calls": [{"id": "x", "function": {"index": 0, "name": "time", "arguments": {"a": 1}}}],
    }
    assert body["messages"][2] == {"role": "tool", "content": "noon", "tool_name": "time", "tool_call_id": "x"}
    assert body["tools"] == [
        {"type": "function", "function": {"name": "time", "description": "", "parameters": schema}}
    ]
    assert (body["think"], body["format"], body["shift"]) == ("low", schema, False)
    assert (body["logprobs"], body["top_logprobs"], body["options"]["num_ctx"]) == (True, 2, 64)
    assert "keep_alive" not in body


OLLAMA_OPTIONS: dict[str, Any] = {
    "temperature": 0.5, "top_k": 7, "top_p": 0.5, "min_p": 0.25, "typical_p": 0.5, "repeat_last_n": 9,
    "repeat_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.25, "seed": 3, "num_predict": 11,
    "stop": ("END",),
}  # fmt: skip
MORE_OPTIONS: dict[str, Any] = {
    "ignore_eos": True, "logit_bias": ((5, -math.inf), ("no", 1.5)), "dynatemp_range": 0.5, "dynatemp_exponent": 2.0,
    "dry_multiplier": 0.5, "dry_base": 2.0, "dry_allowed_length": 3, "dry_penalty_last_n": 64,
    "dry_sequence_breakers": ("\n",), "xtc_probability": 0.5, "xtc_threshold": 0.25, "top_n_sigma": 2.0,
    "mirostat": 1, "mirostat_tau": 4.0, "mirostat_eta": 0.25,
}  # fmt: skip


def test_every_option(api: str, server: ScriptedServer, ask: Any) -> None:
    """Ollama gets the options it knows, another Corral gets all of them; unsupported ones are reported."""
    assert set(OLLAMA_OPTIONS | MORE_OPTIONS) == set(SamplingParams.__struct_fields__)
    server.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    sampling = SamplingParams(**OLLAMA_OPTIONS, **MORE_OPTIONS)
    started = ask(ChatRequest(messages=HELLO.messages, sampling=sampling, context=ContextPolicy(num_keep=9)))[0]
    sent = OLLAMA_OPTIONS | {"stop": ["END"], "num_keep": 9}
    if api == "corral":
        bias = [[5, False], ["no", 1.5]]
        sent |= MORE_OPTIONS | {"logit_bias": bias, "dry_sequence_breakers": ["\n"]}
    assert server.bodies(CHAT)[0]["options"] == sent
    assert set(started.ignored_options) == (set() if api == "corral" else set(MORE_OPTIONS))


def test_a_raw_completion(server: ScriptedServer, ask: Any) -> None:
    """A prompt is sent without a template around it; log-probabilities come with the text."""
    top = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.0}]
    entry = {"token": " Paris", "logprob": -0.5, "bytes": list(b" Paris"), "top_logprobs": top}
    line = {"response": " Paris", "done": False, "logprobs": [entry]}
    server.replies[GENERATE] = ScriptedReply(
        pieces=lines(line, {"response": "", "done": True, "done_reason": "length"})
    )
    prompt = (TextPart(text="The capital of France is", parse_special=True),)
    [_, delta, last] = ask(CompletionRequest(prompt=prompt, logprobs=1))
    assert isinstance(delta, Delta)
    assert (delta.text, delta.logprobs[0].token, len(delta.logprobs[0].top)) == (" Paris", b" Paris", 1)
    assert (last.reason, last.usage.generated_tokens) == ("length", 1)
    [body] = server.bodies(GENERATE)
    assert (body["prompt"], body["raw"]) == ("The capital of France is", True)


def test_embeddings(server: ScriptedServer, ask: Any) -> None:
    """In order, truncated or not, as requested."""
    server.replies[EMBED] = ScriptedReply(body={"embeddings": [[1.5, 2], [3, 4]], "prompt_eval_count": 5})
    request = EmbedRequest(inputs=((TextPart(text="a"),), (TextPart(text="b"),)), truncate=False, num_ctx=64)
    [output] = ask(request)
    assert isinstance(output, Embedded)
    assert [row.tolist() for row in rows(output.vectors)] == [[1.5, 2.0], [3.0, 4.0]]
    expected = {"model": "m", "input": ["a", "b"], "truncate": False, "options": {"num_ctx": 64}}
    assert server.bodies(EMBED) == [expected]


def test_a_model_that_only_embeds(server: ScriptedServer, ask: Any) -> None:
    """Its server says so, and is asked nothing else."""
    server.replies["/api/show"] = ScriptedReply(body=SHOWN | {"capabilities": ["embedding"]})
    with pytest.raises(Unsupported, match="does not support chat"):
        ask(HELLO)
    assert server.bodies(CHAT) == []


def test_what_another_corral_says_about_its_answer(server: ScriptedServer, ask: Any) -> None:
    """What it left out of the chat, and its warnings, on one line each, are told on; absurd numbers become credible."""
    said_there = {"dropped_messages": 3, "dropped_tokens": -1e300, "warnings": ["a\nb", *map(str, range(99))]}
    server.replies[CHAT] = ScriptedReply(pieces=lines(said("Hi"), LAST | said_there))
    last = ask(HELLO)[-1]
    assert (last.dropped_messages, last.dropped_tokens, len(last.warnings)) == (3, 0, 16)
    assert "\n" not in last.warnings[0]


def test_options_without_effect_there(server: ScriptedServer, ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The ignored options that another Corral names in its last line are in our log."""
    server.replies[CHAT] = ScriptedReply(pieces=lines(said("Hi"), LAST | {"ignored_options": ["top_k"]}))
    with caplog.at_level(logging.WARNING, "corral"):
        ask(HELLO)
    assert "ignored options: top_k" in caplog.text


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (ANSWER[:2], "before the last line"),
        ([*ANSWER[:2], b'{"error":"the model runner has stopped"}\n'], "runner has stopped"),
        ([*ANSWER[:2], b'{"message": 7}\n'], "malformed"),
        ([*ANSWER[:2], b'{"mess\n'], "malformed"),
        ([b'{"message":{"content":"x"},"logprobs":[{"token":"a","logprob":-1,"bytes":[700]}]}\n'], "malformed"),
    ],
)
def test_an_answer_that_goes_wrong(server: ScriptedServer, ask: Any, pieces: list[bytes], text: str) -> None:
    """It is an error, never a shorter answer."""
    server.replies[CHAT] = ScriptedReply(pieces=pieces)
    with pytest.raises(UpstreamError, match=text):
        ask(HELLO)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "the input length exceeds the context length", PromptTooLong),
        (400, '"m" does not support thinking', InvalidRequest),
        (404, "model 'm' not found", UpstreamError),
        (501, "This server does not support embeddings", Unsupported),
        (500, "llama runner process has terminated", UpstreamError),
    ],
)
def test_refusals(server: ScriptedServer, ask: Any, status: int, text: str, kind: type[Exception]) -> None:
    """Ollama's errors are ours, with its words."""
    server.replies[CHAT] = ScriptedReply(status=status, body={"error": text})
    with pytest.raises(kind, match=text):
        ask(HELLO)


def test_closing_the_model(server: ScriptedServer, load_upstream: Any) -> None:
    """Running answers end with `EngineDied`, and the server sees them go."""
    server.replies[CHAT] = ScriptedReply(pieces=ANSWER[:1], endless=True)

    async def check() -> None:
        model = await load_upstream(server.url)
        outputs = model.run(HELLO)
        await anext(outputs)
        await model.aclose()
        with pytest.raises(EngineDied):
            async for _ in outputs:
                pass
        assert await asyncio.to_thread(server.left.wait, 10)

    asyncio.run(check())


def test_lines_that_say_nothing(server: ScriptedServer, ask: Any) -> None:
    """Nulls, empty lines and fractional figures do not spoil an answer."""
    nothing = [b"null\n", b"\n", *lines(said() | {"message": None}, said(content=None, thinking=None, tool_calls=None))]
    last = LAST | {"prompt_eval_count": 9.0, "eval_duration": None, "cached_tokens": None}
    server.replies[CHAT] = ScriptedReply(pieces=[*nothing, *lines(said("Hi")), *nothing, *lines(last)])
    [_, delta, finished] = ask(HELLO)
    assert (delta.text, finished.usage.prompt_tokens) == ("Hi", 9)


@pytest.mark.parametrize(
    ("arguments", "expected"), [({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ("", {}), (None, {})]
)
def test_arguments_of_tool_calls(server: ScriptedServer, ask: Any, arguments: Any, expected: Any) -> None:
    """They arrive as an object, as JSON text, or not at all."""
    calls = [{"function": {"name": "f", "arguments": arguments}}]
    server.replies[CHAT] = ScriptedReply(pieces=lines(said(tool_calls=calls), LAST))
    [_, delta, _] = ask(HELLO)
    assert [call.arguments for call in delta.tool_calls] == [expected]


def test_arguments_that_are_no_object(server: ScriptedServer, ask: Any) -> None:
    """They become text, with a warning."""
    server.replies[CHAT] = ScriptedReply(
        pieces=lines(said(tool_calls=[{"function": {"name": "f", "arguments": "[1"}}]), LAST)
    )
    _, delta, _ = ask(HELLO)
    assert (delta.text, delta.tool_calls) == ('{"name": "f", "arguments": [1}', ())
    assert delta.warnings[0].startswith("a tool call was left in the text: ")


@pytest.mark.parametrize(
    "choice",
    [ToolChoice(), ToolChoice(mode="required"), ToolChoice(mode="required", name="t")],
    ids=["auto", "required", "named"],
)
def test_the_choice_of_tools(api: str, server: ScriptedServer, ask: Any, choice: ToolChoice) -> None:
    """Corral gets it, and what a tool says of itself; Ollama has neither, which the answer says."""
    server.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    request = ChatRequest(messages=HELLO.messages, tools=(Tool(name="t", strict=True),), tool_choice=choice)
    started = ask(request)[0]
    [body] = server.bodies(CHAT)
    named = {"type": "function", "function": {"name": "t"}}
    sent = named if choice.name else "required" if choice.mode == "required" else None
    ignored = {"tools: strict", *(["tool_choice"] if sent else [])}
    assert body.get("tool_choice") == (sent if api == "corral" else None)
    assert set(started.ignored_options) == (set() if api == "corral" else ignored)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"error": "no", "code": 400}, InvalidRequest),
        ({"error": {"message": "no", "code": 422}}, InvalidRequest),
        ({"detail": "no"}, UpstreamError),
        ({"error": "no"}, UpstreamError),
    ],
)
def test_an_error_with_status_200(server: ScriptedServer, ask: Any, error: Any, kind: type[Exception]) -> None:
    """The error keeps its text, and the status that it names."""
    server.replies[CHAT] = ScriptedReply(pieces=lines(said("Hi"), error))
    with pytest.raises(kind, match=": no"):
        ask(HELLO)


def test_images_are_base64(upstream: ScriptedServer, ask: Any) -> None:
    """Of a message as they are; of a raw prompt with their places as ``[img-N]``."""
    red = png_bytes(colour=(255, 0, 0))
    encoded = b64encode(red).decode()
    upstream.replies[CHAT] = upstream.replies[GENERATE] = ScriptedReply(pieces=ANSWER)
    ask(ChatRequest(messages=(Message(role="user", content="Is [img] red?", images=(red,)),)))
    [body] = upstream.bodies(CHAT)
    assert body["messages"] == [{"role": "user", "content": "Is [img] red?", "images": [encoded]}]
    ask(CompletionRequest(prompt=(TextPart(text="Is "), MediaPart(data=red), TextPart(text=" red?"))))
    [body] = upstream.bodies(GENERATE)
    assert (body["prompt"], body["images"], body["raw"]) == ("Is [img-0] red?", [encoded], True)
