"""Wrong arguments to the library are refused with an error that names the argument and the class."""

from __future__ import annotations

import asyncio
import json
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from corral import AsyncCorral, Corral
from corral.api.library import Stream
from corral.core.error_translation import to_error
from corral.core.errors import CorralError, InvalidOption, InvalidRequest, MistypedOption, ModelNotFound
from corral.core.requests.messages import Message
from corral.plugins.testing.gguf import gguf_bytes

MODEL = "small:latest"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Corral with one model, called as an untyped program calls it."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "small.gguf").write_bytes(gguf_bytes())
    with Corral(models=folder / "store", engine="fake", config="") as client:
        client.import_model(folder / "small.gguf", name=MODEL)
        yield client


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.generate(MODEL, b"hello"), "prompt: expected str, got bytes b'hello'"),
        (lambda c: c.generate(MODEL, None), "prompt: expected str"),
        (lambda c: c.generate(MODEL, ["a"]), "prompt: expected str"),
        (lambda c: c.generate(3, "hello"), "model: expected str, got int 3"),
        (lambda c: c.generate(MODEL, "hello", raw="yes"), "raw: expected bool"),
        (lambda c: c.generate(MODEL, "hello", stream="yes"), "stream: expected bool"),
        (lambda c: c.generate(MODEL, "hello", system=b"x"), "system: expected str or None"),
        (lambda c: c.generate(MODEL, "hello", logprobs=True), "logprobs: expected int or None, got bool"),
        (lambda c: c.generate(MODEL, "hello", logprobs="2"), "logprobs: expected int or None"),
        (lambda c: c.generate(MODEL, "hello", engine=3), "engine: expected str or None"),
        (lambda c: c.generate(MODEL, "hello", options="x"), "options: expected a mapping"),
        (lambda c: c.generate(MODEL, "hello", options=[("seed", 1)]), "options: expected a mapping"),
        (lambda c: c.generate(MODEL, "hello", options={1: 2}), "options: names must be strings, not int 1"),
        (lambda c: c.generate(MODEL, "hello", options={None: 2}), "options: names must be strings, not NoneType"),
        (lambda c: c.generate(MODEL, "hello", keep_alive="soon"), "keep_alive: .*soon"),
        (lambda c: c.generate(MODEL, "hello", keep_alive=[1]), "keep_alive: "),
        (lambda c: c.generate(MODEL, "hello", keep_alive="\ud800"), "keep_alive: "),
        (lambda c: c.generate(MODEL, "hello", format=b"json"), "invalid format: .*bytes"),
        (lambda c: c.generate(MODEL, "hello", format=3), "invalid format: .*int 3"),
        (lambda c: c.chat(MODEL, b"hello"), "messages: expected a string or a list of messages"),
        (lambda c: c.chat(MODEL, None), "messages: expected"),
        (lambda c: c.chat(MODEL, {"role": "user", "content": "x"}), "messages: expected a string or a list"),
        (lambda c: c.chat(MODEL, ["hello"]), "invalid message 'hello': a message is a dict"),
        (lambda c: c.chat(MODEL, [{"role": "user"}]), "has no content"),
        (lambda c: c.chat(MODEL, [{"role": "user", "content": None}]), "has no content"),
        (lambda c: c.chat(MODEL, [{"role": "user", "content": b"x"}]), "Expected `str`, got `bytes`"),
        (lambda c: c.chat(MODEL, [{"role": "wizard", "content": "x"}]), "unknown role 'wizard'"),
        (lambda c: c.chat(MODEL, [Message(role="wizard", content="x")]), "unknown role 'wizard'"),
        (lambda c: c.chat(MODEL, [Message(role=3, content="x")]), "Expected `str`, got `int`"),  # type: ignore[arg-type]
        (lambda c: c.chat(MODEL, "hello", system=3), "system: expected str or None"),
        (lambda c: c.embed(MODEL, b"a"), "inputs: expected a string or a list of strings"),
        (lambda c: c.embed(MODEL, None), "inputs: expected"),
        (lambda c: c.embed(MODEL, {"a": 1}), "inputs: expected"),
        (lambda c: c.embed(MODEL, ["a", 3]), "inputs: each must be a string, got int 3"),
        (lambda c: c.embed(MODEL, [None]), "inputs: each must be a string, got None"),
        (lambda c: c.embed(MODEL, "a", dimensions="4"), "dimensions: expected int or None"),
        (lambda c: c.embed(MODEL, "a", dimensions=0), "dimensions: expected at least 1, got 0"),
        (lambda c: c.generate(MODEL, "a", logprobs=-1), "logprobs: expected at least 0, got -1"),
        (lambda c: c.embed(MODEL, "a", truncate=1), "truncate: expected bool"),
        (lambda c: c.rerank(MODEL, 3, ["a"]), "query: expected str"),
        (lambda c: c.rerank(MODEL, "q", ["a", 3]), "documents: each must be a string, got int 3"),
        (lambda c: c.rerank(MODEL, "q", None), "documents: expected a string or a list of strings"),
        (lambda c: c.rerank(MODEL, "q", ["a"], top_n=0), "top_n: expected at least 1, got 0"),
        (lambda c: c.load(MODEL, on_progress=3), "on_progress: expected a function"),
        (lambda c: c.unload(None), "model: expected str"),
        (lambda c: c.show(b"small"), "model: expected str"),
        (lambda c: c.delete(None), "model: expected str"),
        (lambda c: c.copy(MODEL, 3), "destination: expected str"),
        (lambda c: c.list(derived="no"), "derived: expected bool"),
        (lambda c: c.pull(3), "reference: expected str"),
        (lambda c: c.pull("pypi://x", name=3), "name: expected str"),
        (lambda c: c.import_model(3), "path: expected the path of a file or folder"),
        (lambda c: c.import_model(b"x"), "path: expected the path"),
        (lambda c: c.convert(MODEL, 3), "to: expected str"),
        (lambda c: c.convert(MODEL, "onnx", parameters="x"), "parameters: expected a mapping"),
    ],
)
def test_an_argument_of_a_wrong_type(client: Any, call: Callable[[Any], object], words: str) -> None:
    """Each is an `InvalidRequest` that names the argument, and the next call is answered."""
    with pytest.raises(InvalidRequest, match=words):
        call(client)
    assert client.list()


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ({"models": 3}, "models: expected the path"),
        ({"models": ""}, "models: expected the path"),
        ({"engine": 3}, "engine: expected str or None"),
        ({"runner": b"thread"}, "runner: expected str or None"),
        ({"options": "x"}, "options: expected a mapping"),
        ({"settings": ["x"]}, "settings: expected a mapping"),
        ({"config": 3}, "config: expected the path"),
        ({"runtime": "x"}, "runtime: expected Runtime or None"),
    ],
)
def test_a_setup_of_a_wrong_type(setup: Any, words: str) -> None:
    """It is refused when the Corral is created, not at its first use."""
    with pytest.raises(InvalidRequest, match=words):
        Corral(**setup)


def test_unknown_keywords_name_what_was_called(client: Any) -> None:
    """The error names the class and the method that were called, and the closest argument."""
    with pytest.raises(TypeError, match=r"^Corral\(\) has no argument 'model'; did you mean models\?"):
        Corral(model="x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^AsyncCorral\(\) has no argument 'zzz'; its arguments are models, store"):
        AsyncCorral(zzz="x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^Corral\.chat\(\) has no argument 'temperature'; did you mean options="):
        client.chat(MODEL, "hello", temperature=1)
    with pytest.raises(TypeError, match=r"^Corral\.chat\(\) has no argument 'template'; generate\(\) has it"):
        client.chat(MODEL, "hello", template="x")
    with pytest.raises(TypeError, match=r"^Corral\.chat\(\) has no argument 'images'; images belong to a message"):
        client.chat(MODEL, "hello", images=[b"x"])
    with pytest.raises(TypeError, match=r"^Corral\.generate\(\) has no argument 'tools'; chat\(\) has it"):
        client.generate(MODEL, "hello", tools=[])
    with pytest.raises(TypeError, match=r"^Corral\.embed\(\) has no argument 'system'"):
        client.embed(MODEL, "hello", system="x")
    with pytest.raises(TypeError, match=r"^Corral\.load\(\) has no argument 'keepalive'; did you mean keep_alive"):
        client.load(MODEL, keepalive=1)

    async def ask() -> None:
        async with AsyncCorral(config="") as other:
            untyped: Any = other
            await untyped.generate(MODEL, "hello", modle="x")

    with pytest.raises(TypeError, match=r"^AsyncCorral\.generate\(\) has no argument 'modle'"):
        asyncio.run(ask())


def test_a_pydantic_model_as_a_format(client: Any) -> None:
    """The error says what to pass instead."""

    class Model:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {}

    with pytest.raises(InvalidOption, match="invalid format") as caught:
        client.chat(MODEL, "hello", format=Model)
    assert caught.value.remedy == "for a pydantic model pass Model.model_json_schema()"


def test_remedies_show_in_tracebacks(client: Any) -> None:
    """The remedy of an error is shown below it, also for an error from another process and for a copy."""
    with pytest.raises(ModelNotFound) as caught:
        client.show("absent")
    assert caught.value.remedy is not None
    assert traceback.format_exception_only(caught.value)[1:] == [f"{caught.value.remedy}\n"]
    error = CorralError("it broke", "mend it")
    for same in (error, to_error(error.info), pickle.loads(pickle.dumps(error))):
        assert "".join(traceback.format_exception_only(same)).endswith("it broke\nmend it\n")
    assert not hasattr(CorralError("it broke"), "__notes__")


def test_what_errors_quote_is_not_their_reason() -> None:
    """An error knows which part of its message a client wrote, in another process too."""
    error = MistypedOption("top_k is 'my secret', not 1", quoted="'my secret'")
    for same in (error, to_error(error.info), pickle.loads(pickle.dumps(error))):
        assert isinstance(same, MistypedOption)
        assert (same.message, same.reason) == ("top_k is 'my secret', not 1", "top_k is …, not 1")
    assert CorralError("it broke").reason == "it broke"


def test_an_answer_goes_into_the_conversation(client: Corral) -> None:
    """`message` fits into a list of plain dicts, for type checkers too, and into JSON; the next turn accepts it."""
    messages = [{"role": "user", "content": "hello"}]
    answer = client.chat(MODEL, messages, options={"seed": 1})
    messages.append(answer.message)
    messages.append({"role": "user", "content": "and now?"})
    assert json.loads(json.dumps(messages))[1] == {"role": "assistant", "content": answer.text}
    assert answer.message.content == answer.text
    assert client.chat(MODEL, messages).usage.prompt_tokens > answer.usage.prompt_tokens


def test_stream_may_be_decided_at_run_time(client: Corral) -> None:
    """With a plain bool the result is the answer or the stream; type checkers see a union of both."""
    for stream in (bool(0), bool(1)):
        for answer in (
            client.chat(MODEL, "hello", stream=stream, options={"seed": 2}),
            client.generate(MODEL, "hello", stream=stream, options={"seed": 2}),
        ):
            assert isinstance(answer, Stream) is stream
            assert "".join(chunk.text for chunk in answer) if isinstance(answer, Stream) else answer.text


def test_messages_as_other_clients_write_them(client: Corral) -> None:
    """A message with tool calls has no content, or None; roles are accepted in upper or lower case."""
    call = {"name": "look", "arguments": {"where": "there"}}
    for message in (
        {"role": "Assistant", "tool_calls": [call]},
        {"role": "assistant", "tool_calls": [call], "content": None},
    ):
        assert client.chat(
            MODEL, [{"role": "user", "content": "hello"}, message, {"role": "tool", "content": "x"}]
        ).text


def test_a_wrong_call_names_the_class_that_was_used() -> None:
    """Python's own error for a call with too many arguments does so, also for methods of a base."""
    for client in (Corral, AsyncCorral):
        for method in ("quantize", "compare", "tokenize"):
            with pytest.raises(TypeError, match=rf"^{client.__name__}\.{method}\(\) "):
                getattr(client, method)(1, 2, 3, 4, 5, 6)
