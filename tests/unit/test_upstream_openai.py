"""An upstream with OpenAI's API, as real servers implement it: vLLM, SGLang, llama-server."""

from __future__ import annotations

import asyncio
import json
import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from corral.core.errors import (
    CorralError,
    InvalidRequest,
    PromptTooLong,
    ServerBusy,
    Unsupported,
    UpstreamError,
)
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.outputs import Delta, Embedded, Finished, Output, Started, Usage
from corral.core.requests.prompts import MediaPart, TextPart, TokensPart
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

MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "somebody", "max_model_len": 512}]}
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = ChatRequest(messages=(Message(role="user", content="Hello"),))
PROMPT = CompletionRequest(prompt=(TextPart(text="The capital of France is"),))


def events(*chunks: Any, done: bool = True) -> list[bytes]:
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks] + [b"data: [DONE]\n\n"] * done


def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}], "usage": None}


USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": None}}
ANSWER = events(delta(role="assistant", content=""), delta(content="Hi"), delta(content=" you"), delta("stop"), USAGE)


@pytest.fixture
def ask(upstream: ScriptedServer, load_upstream: Any) -> Callable[..., list[Output]]:
    """The outputs of one request to the model behind `upstream`."""
    upstream.replies.setdefault("/v1/models", ScriptedReply(body=MODELS))

    def ask(request: Request, api: str | None = None, **options: Any) -> list[Output]:
        async def run() -> list[Output]:
            model = await load_upstream(upstream.url, api=api, **options)
            try:
                return [output async for output in model.run(request)]
            finally:
                await model.aclose()

        return asyncio.run(run())

    return ask


def texts(outputs: Sequence[Output]) -> str:
    return "".join(output.text for output in outputs if isinstance(output, Delta))


def test_a_chat(upstream: ScriptedServer, ask: Any) -> None:
    """Deltas arrive as content, and the usage that the server reports at the end becomes the answer's."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    outputs = ask(HELLO)
    assert outputs[0] == Started(prompt_tokens=None)
    assert texts(outputs) == "Hi you"
    assert isinstance(outputs[-1], Finished)
    assert (outputs[-1].reason, outputs[-1].usage.prompt_tokens, outputs[-1].usage.generated_tokens) == ("stop", 9, 3)
    [body] = upstream.bodies(CHAT)
    assert body["model"] == "m"
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    assert body["stream_options"] == {"include_usage": True}


def test_pieces_that_fall_anywhere(upstream: ScriptedServer, ask: Any) -> None:
    """However the bytes are split, with comments and CRLF in between, the text is the same."""
    data = b": ping\r\n\r\n" + b"".join(ANSWER).replace(b"\n", b"\r\n")
    upstream.replies[CHAT] = ScriptedReply(pieces=[data[start : start + 7] for start in range(0, len(data), 7)])
    assert texts(ask(HELLO)) == "Hi you"


def test_usage_that_the_server_does_not_tell(upstream: ScriptedServer, ask: Any) -> None:
    """Then deltas are counted."""
    upstream.replies[CHAT] = ScriptedReply(pieces=events(delta(content="a"), delta(content="b"), delta("length")))
    [*_, last] = ask(HELLO)
    assert (last.reason, last.usage.generated_tokens) == ("length", 2)
    assert last.usage.prefill_ns > 0


def test_cached_tokens(upstream: ScriptedServer, ask: Any) -> None:
    """Cached prompt tokens are reported, and so are llama-server's own timings."""
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    last = {"choices": [], "usage": usage, "timings": {"prompt_ms": 2.5, "predicted_ms": 4}}
    upstream.replies[CHAT] = ScriptedReply(pieces=events(delta(content="a"), delta("stop"), last))
    expected = Usage(prompt_tokens=9, cached_tokens=8, generated_tokens=1, prefill_ns=2_500_000, decode_ns=4_000_000)
    assert ask(HELLO)[-1] == Finished(reason="stop", usage=expected)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking(upstream: ScriptedServer, ask: Any, name: str) -> None:
    """It is kept apart from the visible text, under either of its names."""
    upstream.replies[CHAT] = ScriptedReply(pieces=events(delta(**{name: "hmm"}), delta(content="yes"), delta("stop")))
    outputs = ask(HELLO)
    assert "".join(output.thinking for output in outputs if isinstance(output, Delta)) == "hmm"
    assert texts(outputs) == "yes"


def fragment(index: int, arguments: str, name: str | None = None, id: str | None = None) -> dict[str, Any]:
    return {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_tool_calls_come_whole(upstream: ScriptedServer, ask: Any) -> None:
    """Fragments, even of two interleaved calls, are put together by index."""
    upstream.replies[CHAT] = ScriptedReply(
        pieces=events(
            delta(tool_calls=[fragment(0, "", "weather", "call_a")]),
            delta(tool_calls=[fragment(0, '{"city": "Pa')]),
            delta(tool_calls=[fragment(1, '{"zone":', "time", "call_b"), fragment(0, 'ris"}')]),
            delta(tool_calls=[fragment(1, ' "CET"}')]),
            delta("tool_calls"),
            USAGE,
        )
    )
    tool = Tool(name="weather", description="Tells it", parameters={"type": "object"})
    request = ChatRequest(messages=HELLO.messages, tools=(tool,))
    [_, calls, last] = ask(request)
    assert calls.tool_calls == (
        ToolCall(name="weather", arguments={"city": "Paris"}, id="call_a", index=0),
        ToolCall(name="time", arguments={"zone": "CET"}, id="call_b", index=1),
    )
    assert last.reason == "stop"
    [body] = upstream.bodies(CHAT)
    function = {"name": "weather", "description": "Tells it", "parameters": {"type": "object"}}
    assert body["tools"] == [{"type": "function", "function": function}]


def whole(name: str, arguments: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **fields}


@pytest.mark.parametrize(
    "fragments",
    [
        [whole("a", '{"x":1}', id="p"), whole("b", '{"y":2}', id="q")],
        [whole("a", {"x": 1}, id="p"), whole("b", {"y": 2}, id="q")],
        [whole("a", '{"x":1}', id="p", index=0), whole("b", '{"y":2}', id="q", index=0)],
        [whole("a", '{"x":', id="p"), {"function": {"arguments": "1}"}}, whole("b", '{"y":2}', id="q")],
        [whole("a", '{"x":', id="p"), {"id": "p", "function": {"arguments": "1}"}}, whole("b", '{"y":2}', id="q")],
        [
            whole("a", '{"x":', id="p"), whole("b", '{"y":', id="q"), {"id": "p", "function": {"arguments": "1}"}},
            {"id": "q", "function": {"arguments": "2}"}},
        ],
        [None, whole("a", '{"x":1}', id="p", index=0), whole("b", None, id="q", index=1), fragment(1, '{"y":2}')],
        [whole("a", '{"x":', id="p", index=0), fragment(0, "1}", id="new"), whole("b", '{"y":2}', id="q", index=1)],
    ],
)  # fmt: skip
@pytest.mark.parametrize("together", [True, False])
def test_how_servers_tell_tool_calls_apart(
    upstream: ScriptedServer, ask: Any, fragments: list[Any], together: bool
) -> None:
    """By index, by id alone, in one chunk or several, with arguments as text or as an object: two calls result."""
    chunks = [delta(tool_calls=fragments)] if together else [delta(tool_calls=[one]) for one in fragments]
    upstream.replies[CHAT] = ScriptedReply(pieces=events(*chunks, delta("tool_calls")))
    [_, calls, _] = ask(HELLO)
    assert [(call.name, call.arguments, call.id) for call in calls.tool_calls] == [
        ("a", {"x": 1}, "p"),
        ("b", {"y": 2}, "q"),
    ]


def test_tool_calls_with_neither_index_nor_id(upstream: ScriptedServer, ask: Any) -> None:
    """Each complete call counts as one, even if the same function is called twice."""
    calls = [whole("a", '{"x":1}'), whole("a", '{"x":2}'), whole("b", "")]
    upstream.replies[CHAT] = ScriptedReply(pieces=events(delta(tool_calls=calls), delta("tool_calls")))
    [_, found, _] = ask(HELLO)
    assert [(call.name, call.arguments) for call in found.tool_calls] == [("a", {"x": 1}), ("a", {"x": 2}), ("b", {})]


def test_a_tool_call_that_is_cut_off(upstream: ScriptedServer, ask: Any) -> None:
    """Half a call becomes text with a warning, whatever the answer ended with; whole ones beside it are read."""
    half = delta(tool_calls=[fragment(0, '{"city": "Pa', "weather", "a"), fragment(1, "{}", "time", "b")])
    for reason in ("length", "tool_calls"):
        upstream.replies[CHAT] = ScriptedReply(pieces=events(half, delta(reason)))
        deltas = [output for output in ask(HELLO) if isinstance(output, Delta)]
        assert "".join(delta.text for delta in deltas) == '{"name": "weather", "arguments": {"city": "Pa}'
        [warning] = [warning for delta in deltas for warning in delta.warnings]
        assert warning.startswith("a tool call was left in the text: ")
        assert [call for delta in deltas for call in delta.tool_calls] == [ToolCall(name="time", id="b")]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (ToolChoice(), None),
        (ToolChoice(mode="required"), "required"),
        (ToolChoice(mode="required", name="t"), {"type": "function", "function": {"name": "t"}}),
    ],
)
def test_the_choice_of_tools(upstream: ScriptedServer, ask: Any, choice: ToolChoice, sent: Any) -> None:
    """It is sent as OpenAI's API writes it, and so is what a tool says of itself."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    ask(ChatRequest(messages=HELLO.messages, tools=(Tool(name="t", strict=True),), tool_choice=choice))
    [body] = upstream.bodies(CHAT)
    assert body.get("tool_choice") == sent
    assert body["tools"][0]["function"]["strict"] is True


def test_a_conversation_with_tools(upstream: ScriptedServer, ask: Any) -> None:
    """Results that only name their tool, as Ollama's clients send them, find the call they belong to."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    calls = (ToolCall(name="time", arguments={}), ToolCall(name="weather", arguments={"city": "Bonn"}, id="w"))
    messages = (
        Message(role="user", content="?"),
        Message(role="assistant", tool_calls=calls),
        Message(role="tool", content="rain", tool_name="weather"),
        Message(role="tool", content="noon"),
    )
    ask(ChatRequest(messages=messages))
    [body] = upstream.bodies(CHAT)
    _, asking, rain, noon = body["messages"]
    assert [call["id"] for call in asking["tool_calls"]] == ["call_1_0", "w"]
    assert asking["tool_calls"][1]["function"] == {"name": "weather", "arguments": '{"city":"Bonn"}'}
    assert (rain["tool_call_id"], noon["tool_call_id"]) == ("w", "call_1_0")


@pytest.mark.parametrize("legacy", [False, True], ids=["entries", "lists"])
def test_log_probabilities(upstream: ScriptedServer, ask: Any, legacy: bool) -> None:
    """Both forms are read, and cut to the requested number of alternatives."""
    top = [{"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": "b", "logprob": -1, "bytes": None}]
    found: dict[str, Any] = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": top}]}
    if legacy:
        found = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5, "b": -1.0}]}
    choice = {"index": 0, "text": "a", "logprobs": found, "finish_reason": "stop"}
    upstream.replies[COMPLETIONS] = ScriptedReply(pieces=events({"choices": [choice]}))
    request = CompletionRequest(prompt=PROMPT.prompt, logprobs=1)
    [delta_] = [output for output in ask(request) if isinstance(output, Delta)]
    [entry] = delta_.logprobs
    assert (entry.token, entry.logprob, [one.token for one in entry.top]) == (b"a", -0.5, [b"a"])
    assert upstream.bodies(COMPLETIONS)[0]["logprobs"] == 1


def test_a_completion(upstream: ScriptedServer, ask: Any) -> None:
    """A prompt is sent unchanged, with a length limit: otherwise some servers stop after 16 tokens."""
    chunks = [{"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in (" Par", "is")]
    last = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
    upstream.replies[COMPLETIONS] = ScriptedReply(pieces=events(*chunks, last))
    outputs = ask(PROMPT)
    assert "".join(output.text for output in outputs if isinstance(output, Delta)) == " Paris"
    [body] = upstream.bodies(COMPLETIONS)
    assert (body["prompt"], body["max_tokens"]) == ("The capital of France is", 256)


def test_token_ids(ask: Any) -> None:
    """They are meaningless to another server."""
    with pytest.raises(Unsupported, match="accepts text"):
        ask(CompletionRequest(prompt=(TokensPart(ids=(1, 2)),)))


def test_embeddings(upstream: ScriptedServer, ask: Any) -> None:
    """Vectors come in the order of the texts, however the server orders them; many texts are sent in batches."""
    data = [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1.5, 2]}]
    upstream.replies[EMBEDDINGS] = ScriptedReply(body={"data": data, "usage": {"prompt_tokens": 5}})
    [output] = ask(EmbedRequest(inputs=((TextPart(text="a"),), (TextPart(text="b"),))))
    assert isinstance(output, Embedded)
    assert [row.tolist() for row in rows(output.vectors)] == [[1.5, 2.0], [3.0, 4.0]]
    assert output.prompt_tokens == 5

    def vectors(count: int) -> dict[str, Any]:
        return {"data": [{"index": index, "embedding": [1]} for index in range(count)]}

    upstream.replies[EMBEDDINGS] = [ScriptedReply(body=vectors(64)), ScriptedReply(body=vectors(1))]
    [output] = ask(EmbedRequest(inputs=((TextPart(text="a"),),) * 65))
    assert output.vectors.count == 65


@pytest.mark.parametrize(
    "body", [{"data": [{"embedding": [1]}]}, {"data": [{"embedding": [1]}, {"embedding": []}]}, {"data": "x"}, b"{"]
)
def test_embeddings_that_are_wrong(upstream: ScriptedServer, ask: Any, body: Any) -> None:
    """Too few of them, of two lengths, or no vectors at all: never a wrong vector."""
    upstream.replies[EMBEDDINGS] = ScriptedReply(body=body)
    with pytest.raises(UpstreamError, match=r"vectors"):
        ask(EmbedRequest(inputs=((TextPart(text="a"),), (TextPart(text="b"),))))


# ── Options ───────────────────────────────────────────────────────────────────────────────────────────────────────

STATED: dict[str, Any] = {
    "temperature": 0.5, "top_k": 7, "top_p": 0.5, "min_p": 0.25, "typical_p": 0.5, "repeat_last_n": 9,
    "repeat_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.25, "seed": 3, "num_predict": 11,
    "stop": ("END",), "ignore_eos": True, "logit_bias": ((5, -math.inf), (6, 1.5)), "dynatemp_range": 0.5,
    "dynatemp_exponent": 2.0, "dry_multiplier": 0.5, "dry_base": 2.0, "dry_allowed_length": 3,
    "dry_penalty_last_n": 64, "dry_sequence_breakers": ("\n",), "xtc_probability": 0.5, "xtc_threshold": 0.25,
    "top_n_sigma": 2.0, "mirostat": 1, "mirostat_tau": 4.0, "mirostat_eta": 0.25,
}  # fmt: skip
OPENAI = {
    "temperature": 0.5, "top_p": 0.5, "presence_penalty": 0.5, "frequency_penalty": 0.25, "seed": 3, "max_tokens": 11,
    "stop": ["END"], "logit_bias": {"5": -100.0, "6": 1.5},
}  # fmt: skip
VLLM = OPENAI | {"top_k": 7, "min_p": 0.25, "repetition_penalty": 1.5, "ignore_eos": True}
LLAMA_SERVER = {name: value for name, value in STATED.items() if name != "num_predict"} | {
    "max_tokens": 11, "stop": ["END"], "dry_sequence_breakers": ["\n"], "logit_bias": [[5, False], [6, 1.5]],
}  # fmt: skip
ON_VLLM = {"top_k", "min_p", "repeat_penalty", "ignore_eos"}


@pytest.mark.parametrize(
    ("api", "expected", "unknown"),
    [
        ("openai", OPENAI, STATED.keys() - {*OPENAI, "num_predict"}),
        ("vllm", VLLM, STATED.keys() - {*OPENAI, "num_predict", *ON_VLLM}),
        ("sglang", VLLM, STATED.keys() - {*OPENAI, "num_predict", *ON_VLLM}),
        ("llama-server", LLAMA_SERVER, set()),
    ],
)
def test_every_option(
    upstream: ScriptedServer, ask: Any, api: str, expected: dict[str, Any], unknown: set[str]
) -> None:
    """Each is sent under the server's name for it; those it has no name for are reported, including `num_ctx`."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    request = ChatRequest(
        messages=HELLO.messages, sampling=SamplingParams(**STATED), context=ContextPolicy(num_ctx=64, num_keep=9)
    )
    started = ask(request, api)[0]
    [body] = upstream.bodies(CHAT)
    sent = body.keys() - {"model", "messages", "stream", "stream_options"}
    assert {name: body[name] for name in sent} == expected
    assert set(started.ignored_options) == unknown | {"num_ctx", "num_keep"}


def test_options_at_their_defaults(upstream: ScriptedServer, ask: Any) -> None:
    """Ollama's defaults are sent if the server has a name for them, since its own may differ; none is reported."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    started = ask(HELLO, "llama-server")[0]
    [body] = upstream.bodies(CHAT)
    assert (body["temperature"], body["top_k"], body["min_p"]) == (0.8, 40, 0.0)
    assert not {"seed", "max_tokens", "stop", "mirostat", "dry_base", "ignore_eos"} & body.keys()
    assert started.ignored_options == ()


def test_top_k_without_a_limit(upstream: ScriptedServer, ask: Any) -> None:
    """vLLM writes "all of them" as -1."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    ask(ChatRequest(messages=HELLO.messages, sampling=SamplingParams(top_k=0)), "vllm")
    assert upstream.bodies(CHAT)[0]["top_k"] == -1


def test_a_bias_by_text(upstream: ScriptedServer, ask: Any) -> None:
    """OpenAI's format only has ids: a bias on a text is reported as without effect."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    started = ask(ChatRequest(messages=HELLO.messages, sampling=SamplingParams(logit_bias=(("no", -1.0),))))[0]
    assert started.ignored_options == ("logit_bias",)


@pytest.mark.parametrize(
    ("api", "think", "sent", "ignored"),
    [
        ("vllm", True, {"chat_template_kwargs": {"enable_thinking": True}}, ()),
        ("llama-server", False, {"chat_template_kwargs": {"enable_thinking": False}}, ()),
        ("sglang", "max", {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "high"}, ()),
        ("openai", "low", {"reasoning_effort": "low"}, ()),
        ("openai", True, {}, ("think",)),
        ("vllm", None, {}, ()),
    ],
)
def test_think(
    upstream: ScriptedServer, ask: Any, api: str, think: Any, sent: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    """On and off go to the template, a level to OpenAI's field; if a server has neither, it is reported."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    started = ask(ChatRequest(messages=HELLO.messages, think=think), api)[0]
    [body] = upstream.bodies(CHAT)
    assert {name: body[name] for name in ("chat_template_kwargs", "reasoning_effort") if name in body} == sent
    assert started.ignored_options == ignored


def test_constraints(upstream: ScriptedServer, ask: Any) -> None:
    """A schema is a response format, a grammar goes to llama-server; what a server cannot enforce is refused."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    constraint = Constraint(kind="json_schema", source=json.dumps(schema))
    ask(ChatRequest(messages=HELLO.messages, constraint=constraint))
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert upstream.bodies(CHAT)[-1]["response_format"] == response_format
    ask(ChatRequest(messages=HELLO.messages, constraint=Constraint(kind="json_schema", source='{"type":"object"}')))
    assert upstream.bodies(CHAT)[-1]["response_format"] == {"type": "json_object"}
    grammar = Constraint(kind="gbnf", source='root ::= "a"')
    ask(ChatRequest(messages=HELLO.messages, constraint=grammar), "llama-server")
    assert upstream.bodies(CHAT)[-1]["grammar"] == 'root ::= "a"'
    with pytest.raises(Unsupported, match="gbnf"):
        ask(ChatRequest(messages=HELLO.messages, constraint=grammar), "vllm")


@pytest.mark.parametrize(
    ("api", "constraint", "sent"),
    [
        ("vllm", Constraint(kind="regex", source="a+"), {"structured_outputs": {"regex": "a+"}}),
        ("vllm", Constraint(kind="choice", source='["a","b"]'), {"structured_outputs": {"choice": ["a", "b"]}}),
        ("sglang", Constraint(kind="regex", source="a+"), {"regex": "a+"}),
    ],
)
def test_other_formats(upstream: ScriptedServer, ask: Any, api: str, constraint: Constraint, sent: Any) -> None:
    """Each server gets them in its own fields."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    ask(ChatRequest(messages=HELLO.messages, constraint=constraint), api)
    assert sent.items() <= upstream.bodies(CHAT)[-1].items()


@pytest.mark.parametrize(
    ("api", "ignored"), [("vllm", ()), ("llama-server", ()), ("sglang", ()), ("openai", ("messages.thinking",))]
)
def test_earlier_thinking(upstream: ScriptedServer, ask: Any, api: str, ignored: tuple[str, ...]) -> None:
    """It goes to servers whose templates can show it; plain OpenAI has no place for it, which is reported."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    messages = (*HELLO.messages, Message(role="assistant", content="Yes", thinking="hm"), *HELLO.messages)
    started = ask(ChatRequest(messages=messages), api)[0]
    sent = upstream.bodies(CHAT)[-1]["messages"][1]
    assert sent == {"role": "assistant", "content": "Yes"} | ({} if ignored else {"reasoning_content": "hm"})
    assert started.ignored_options == ignored


def test_a_limit_of_thinking_is_reported(upstream: ScriptedServer, ask: Any) -> None:
    """These servers have none for a single request."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    assert ask(ChatRequest(messages=HELLO.messages, thinking_budget=9))[0].ignored_options == ("thinking_budget",)


def nothing() -> list[bytes]:
    """Chunks without content, each of them seen from some server."""
    return [
        b"\xef\xbb\xbfdata: null\n\n",
        b"data:\n\n",
        b"data: \n\n",
        b"event: ping\ndata: {}\n\n",
        *events(
            {"choices": None},
            {"choices": [None]},
            {"choices": [{"index": 0, "delta": None, "finish_reason": None}], "usage": None},
            delta(content=None, tool_calls=None),
            delta(content=[], tool_calls=[None]),
            {"choices": [], "usage": {"prompt_tokens": 1.0, "completion_tokens": None}, "timings": {"prompt_ms": None}},
            {"error": None, "choices": []},
            done=False,
        ),
    ]


def test_chunks_that_say_nothing(upstream: ScriptedServer, ask: Any) -> None:
    """They do not spoil an answer, wherever they occur."""
    pieces = [one for piece in ANSWER[:-1] for one in (*nothing(), piece)]
    upstream.replies[CHAT] = ScriptedReply(pieces=[*pieces, *nothing(), ANSWER[-1]])
    outputs = ask(HELLO)
    assert texts(outputs) == "Hi you"
    assert outputs[-1].reason == "stop"


def test_content_in_parts(upstream: ScriptedServer, ask: Any) -> None:
    """Content that is a list of parts becomes their text, with thinking separate; parts without text are ignored."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}, {"type": "text", "text": "m"}]}
    said = [{"type": "text", "text": "Hi"}, None, {"type": "image_url", "image_url": {}}, {"text": " you"}]
    upstream.replies[CHAT] = ScriptedReply(pieces=events(delta(content=[thought]), delta(content=said), delta("stop")))
    outputs = ask(HELLO)
    assert texts(outputs) == "Hi you"
    assert "".join(output.thinking for output in outputs if isinstance(output, Delta)) == "hmm"


# ── Refusals and breaks ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (401, {"error": {"message": "Incorrect API key"}}, UpstreamError, "refuses the key.*Incorrect API key"),
        (403, {"detail": "Forbidden"}, UpstreamError, r"refuses the key \(403\): Forbidden"),
        (404, {"message": "The model `m` does not exist.", "code": 404}, UpstreamError, "no model 'm'"),
        (400, {"error": {"message": "bad temperature", "type": "BadRequestError"}}, InvalidRequest, "bad temperature"),
        (422, {"detail": [{"msg": "extra field"}]}, InvalidRequest, "extra field"),
        (400, {"message": "This model's maximum context length is 512 tokens."}, PromptTooLong, "512"),
        (400, {"error": {"code": "context_length_exceeded", "message": "too much"}}, PromptTooLong, "too much"),
        (
            400,
            {"error": {"message": "request (9 tokens) exceeds", "type": "exceed_context_size_error"}},
            PromptTooLong,
            "exceeds",
        ),
        (429, {"error": {"message": "Rate limit"}}, ServerBusy, "is busy.*Rate limit"),
        (503, {"error": {"message": "Loading model"}}, ServerBusy, "Loading model"),
        (500, b"Internal Server Error", UpstreamError, "Internal Server Error"),
        (501, {"error": {"message": "not supported"}}, Unsupported, "not supported"),
        (502, b"<html>Bad Gateway</html>", UpstreamError, "cannot reach its server"),
        (500, b"", UpstreamError, "it answered 500"),
        (500, b"[" * 70_000, UpstreamError, r"\[\["),
    ],
)
def test_refusals(
    upstream: ScriptedServer, ask: Any, status: int, body: Any, kind: type[CorralError], text: str
) -> None:
    """A server's refusal becomes one of our errors, with its own words and its address."""
    upstream.replies[CHAT] = ScriptedReply(status=status, body=body)
    with pytest.raises(kind, match=text) as caught:
        ask(HELLO)
    assert upstream.url in str(caught.value)
    assert type(caught.value) is kind


def test_redirects_are_not_followed(upstream: ScriptedServer, another_upstream: ScriptedServer, ask: Any) -> None:
    """Only the named address is contacted, so that no key is sent elsewhere."""
    upstream.replies[CHAT] = ScriptedReply(status=307, headers={"location": f"{another_upstream.url}/v1/x"})
    with pytest.raises(UpstreamError, match="redirects to"):
        ask(HELLO)
    assert another_upstream.asked == []


@pytest.mark.parametrize(
    ("pieces", "breaks", "text"),
    [
        ([*ANSWER[:2], b'data: {"choi'], True, "in the middle of its answer"),
        (ANSWER[:3], False, "without a finish reason"),
        ([*ANSWER[:3], b"data: [DONE]\n\n"], False, "without a finish reason"),
        ([*ANSWER[:2], b"data: {nonsense}\n\n"], False, "malformed.*nonsense"),
        ([*ANSWER[:2], b'data: {"choices": 7}\n\n'], False, "malformed"),
        ([*ANSWER[:2], b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'], False, "out of memory"),
        (events(delta(content="a"), delta("abort")), False, "abort"),
        ([b"data: " + b"x" * (9 << 20)], False, "line is longer than"),
    ],
)
def test_an_answer_that_goes_wrong(
    upstream: ScriptedServer, ask: Any, pieces: list[bytes], breaks: bool, text: str
) -> None:
    """It is an error, never a shorter answer."""
    upstream.replies[CHAT] = ScriptedReply(pieces=pieces, breaks=breaks)
    with pytest.raises(UpstreamError, match=text):
        ask(HELLO)


@pytest.mark.parametrize("form", ["event", "named event", "body"])
@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        ({"object": "error", "message": "bad top_p", "code": 400}, InvalidRequest, "bad top_p"),
        ({"object": "error", "message": "bad top_p", "type": "BadRequestError"}, UpstreamError, "bad top_p"),
        ({"error": {"message": "bad top_p", "code": "400"}}, InvalidRequest, "bad top_p"),
        ({"error": "bad top_p", "status": 422}, InvalidRequest, "bad top_p"),
        ({"detail": "not now"}, UpstreamError, "not now"),
        ({"detail": [{"msg": "extra field"}], "status_code": 422}, InvalidRequest, "extra field"),
        ({"error": {"message": "slow down", "code": 429}}, ServerBusy, "slow down"),
        ({"error": {"message": "overloaded", "code": 503}}, ServerBusy, "overloaded"),
        ({"error": {"code": 400, "message": "the context length is 512"}}, PromptTooLong, "512"),
        ({"error": {"message": "out of memory", "code": 500}}, UpstreamError, "out of memory"),
        ({"error": {"message": "odd", "code": "invalid_value"}}, UpstreamError, "odd"),
        ({"message": "who are you?", "code": 401}, UpstreamError, "refuses the key.*who are you"),
    ],
)
def test_an_error_with_status_200(
    upstream: ScriptedServer, ask: Any, form: str, error: Any, kind: type[CorralError], text: str
) -> None:
    """An error object in place of a stream, or in it, keeps its words, and the status that it names."""
    if form == "body":
        upstream.replies[CHAT] = ScriptedReply(body=error)
    else:
        [event] = events(error, done=False)
        upstream.replies[CHAT] = ScriptedReply(pieces=[ANSWER[0], b"event: error\n" * (form == "named event") + event])
    with pytest.raises(kind, match=text) as caught:
        ask(HELLO)
    assert isinstance(caught.value, kind)
    assert type(caught.value) is kind or kind is UpstreamError


def test_silence(upstream: ScriptedServer, ask: Any) -> None:
    """A server that accepts the request and stays silent is abandoned after the configured time."""
    upstream.replies[CHAT] = ScriptedReply(hangs=True)
    with pytest.raises(UpstreamError, match=r"sent nothing for 0.2 s"):
        ask(HELLO, silence_timeout_s=0.2)


def test_leaving_reaches_the_server(upstream: ScriptedServer, load_upstream: Any) -> None:
    """Closing the answer closes the connection, and the server notices."""
    upstream.replies |= {"/v1/models": ScriptedReply(body=MODELS), CHAT: ScriptedReply(pieces=ANSWER[:2], endless=True)}

    async def check() -> None:
        model = await load_upstream(upstream.url)
        outputs = model.run(HELLO)
        await anext(outputs)
        await outputs.aclose()
        assert await asyncio.to_thread(upstream.left.wait, 10)
        await model.aclose()

    asyncio.run(check())


def test_images_are_parts_of_a_message(upstream: ScriptedServer, ask: Any) -> None:
    """Images are data URLs of their type, in their places in the text; sound is a part of its own kind."""
    upstream.replies[CHAT] = ScriptedReply(pieces=ANSWER)
    red, sound = png_bytes(colour=(255, 0, 0)), b"RIFF\0\0\0\0WAVEfmt "
    said = Message(role="user", content="Is [img] like this?", images=(red, red, sound))
    ask(ChatRequest(messages=(Message(role="system", content="Look."), said)))
    [body] = upstream.bodies(CHAT)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + b64encode(red).decode()}}
    assert body["messages"] == [
        {"role": "system", "content": "Look."},
        {
            "role": "user",
            "content": [
                image,
                {"type": "input_audio", "input_audio": {"data": b64encode(sound).decode(), "format": "wav"}},
                {"type": "text", "text": "Is "},
                image,
                {"type": "text", "text": " like this?"},
            ],
        },
    ]
    with pytest.raises(Unsupported, match="images only in chats"):
        ask(CompletionRequest(prompt=(MediaPart(data=red),)))
