"""The library: models in this process, for asynchronous and for blocking code."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import corral
from corral import AsyncCorral, Corral
from corral.core.errors import (
    InvalidOption,
    InvalidRequest,
    ModelNotFound,
    SettingsError,
    UnknownEngine,
    Unsupported,
)
from corral.core.requests.messages import Message
from corral.core.scheduling.load_progress import LoadProgress
from corral.plugins.testing.gguf import gguf_bytes

MODEL = "small:latest"
SLOW = {"engines.fake.step_delay_s": 0.02, "engines.fake.answer": "one two three four five six seven eight " * 50}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf_bytes())
    return file


@pytest.fixture
def setup(tmp_path: Path, weights: Path) -> dict[str, Any]:
    """The arguments of a Corral with a store of one model and the fake engine."""
    setup: dict[str, Any] = {"models": tmp_path / "store", "engine": "fake", "settings": {}}
    with Corral(**setup) as client:
        client.import_model(weights, name=MODEL)
    return setup


@pytest.fixture
def client(setup: dict[str, Any]) -> Iterator[Corral]:
    with Corral(**setup) as client:
        yield client


@pytest.fixture
def slow(setup: dict[str, Any]) -> Iterator[Corral]:
    """A Corral whose answers take a long time."""
    with Corral(**setup | {"settings": SLOW}) as client:
        yield client


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_idle(client: Corral) -> bool:
    return all(model.active == 0 for model in client.loaded())


def test_the_public_names() -> None:
    """The package exports exactly its documented names."""
    assert set(dir(corral)) == {"AsyncCorral", "Corral", "CorralError", "__version__"}
    assert all(getattr(corral, name) is not None for name in dir(corral))
    with pytest.raises(AttributeError):
        corral.Stable  # noqa: B018


def test_chat_takes_a_text_or_messages(client: Corral) -> None:
    """A string is one user message; dicts and `Message`s mean the same."""
    plain = client.chat(MODEL, "hello", options={"seed": 1})
    dicts = client.chat(MODEL, [{"role": "User", "content": "hello"}], options={"seed": 1})
    values = client.chat(MODEL, [Message(role="user", content="hello")], options={"seed": 1})
    assert plain.text
    assert plain.text == dicts.text == values.text == plain.message.content
    assert plain.message.role == "assistant"
    assert plain.finish_reason == "stop"
    assert plain.engine == "fake"
    assert plain.usage.generated_tokens > 0
    assert plain.total_ns >= plain.load_ns


def test_a_system_text_goes_first(client: Corral) -> None:
    """`system` is part of the prompt: it costs tokens and changes the answer."""
    without, with_ = client.chat(MODEL, "hello"), client.chat(MODEL, "hello", system="be kind to everybody")
    assert with_.usage.prompt_tokens > without.usage.prompt_tokens


def test_a_stream_gives_what_the_whole_gives(client: Corral) -> None:
    """The chunks joined are the text, and the result is available at the end, not before."""
    whole = client.generate(MODEL, "hello", options={"seed": 3})
    with client.generate(MODEL, "hello", options={"seed": 3}, stream=True) as stream:
        first = next(stream)
        with pytest.raises(RuntimeError, match="not complete"):
            _ = stream.result
        text = first.text + "".join(chunk.text for chunk in stream)
    assert text == whole.text == stream.result.text
    assert stream.result.usage.generated_tokens == whole.usage.generated_tokens


def test_options_of_the_object_and_of_the_call(setup: dict[str, Any]) -> None:
    """The object's options apply unless a call overrides them."""
    with Corral(**setup | {"options": {"num_predict": 3}}) as client:
        assert client.generate(MODEL, "hello").usage.generated_tokens == 3
        assert client.generate(MODEL, "hello", options={"num_predict": 2}).usage.generated_tokens == 2


def test_logprobs(client: Corral) -> None:
    """One entry per token, with the requested number of alternatives."""
    result = client.generate(MODEL, "hello", options={"num_predict": 4}, logprobs=2)
    assert len(result.logprobs) == 4
    assert all(len(entry.top) == 2 for entry in result.logprobs)
    assert client.generate(MODEL, "hello", options={"num_predict": 4}).logprobs == ()


def test_embeddings(client: Corral) -> None:
    """One vector of length 1 per input, in order."""
    result = client.embed(MODEL, ["a", "b", "a"])
    assert len(result.vectors) == 3
    assert result.vectors[0] == result.vectors[2] != result.vectors[1]
    assert sum(number * number for number in result.vectors[0]) == pytest.approx(1, abs=1e-5)
    assert len(client.embed(MODEL, "a", dimensions=4).vectors[0]) == 4


def test_documents_are_ranked(client: Corral) -> None:
    """The best first, with their places, and as many as were asked for; a model that is no reranker is refused."""
    documents = ("a horse", "you and the time", "the word is time")
    result = client.rerank(MODEL, "what time is it", documents, engine="fake")
    scores = [one.score for one in result.documents]
    assert scores == sorted(scores, reverse=True)
    assert [one.text for one in result.documents] == [documents[one.index] for one in result.documents]
    assert sorted(one.index for one in result.documents) == [0, 1, 2]
    assert all(0 < one.relevance < 1 for one in result.documents)
    assert result.usage.prompt_tokens > 0
    best = client.rerank(MODEL, "what time is it", documents, top_n=1, engine="fake").documents
    assert best == result.documents[:1]
    with pytest.raises(Unsupported, match=f'"{MODEL}" does not support rerank'):
        client.rerank(MODEL, "what time is it", documents)


def test_tokens(client: Corral) -> None:
    """Of a text and back, and of a chat as it is sent; nothing is loaded for it."""
    tokens = client.tokenize(MODEL, "the people, 日本", with_pieces=True)
    assert tokens.text == client.detokenize(MODEL, tokens.ids) == "the people, 日本"
    assert b"".join(tokens.pieces or ()).decode() == tokens.text
    bos = client.tokenize(MODEL, "<|bos|>").ids
    assert client.tokenize(MODEL, "the", add_special=True).ids == (*bos, *client.tokenize(MODEL, "the").ids)
    assert client.tokenize(MODEL, "<|bos|>", parse_special=False).ids != bos
    chat = client.tokenize(MODEL, [{"role": "user", "content": "the people"}], system="Be brief.")
    assert "Be brief." in chat.text
    assert chat.pieces is None
    assert client.loaded() == []
    asked = client.chat(MODEL, "the people", system="Be brief.", options={"num_predict": 1})
    assert asked.usage.prompt_tokens == len(chat.ids)
    assert client.tokenize(MODEL, [Message(role="user", content="the people")], system="Be brief.") == chat


def test_tokens_asked_wrongly(client: Corral) -> None:
    """The argument is named."""
    for wrong, named in (({"system": "x"}, "system"), ({"tools": []}, "tools"), ({"with_pieces": 1}, "with_pieces")):
        with pytest.raises(InvalidRequest, match=named):
            client.tokenize(MODEL, "x", **wrong)
    with pytest.raises(InvalidRequest, match="add_special"):
        client.tokenize(MODEL, [{"role": "user", "content": "x"}], add_special=True)
    with pytest.raises(InvalidRequest, match="ids: expected token ids"):
        client.detokenize(MODEL, "abc")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="not in the vocabulary"):
        client.detokenize(MODEL, [1 << 40])
    with pytest.raises(InvalidRequest):
        client.tokenize(MODEL, "a\ud800")


def test_the_models_of_the_store(client: Corral, weights: Path) -> None:
    """Import, list, show, copy and delete do what they say."""
    record = client.import_model(weights)
    client.copy(record.name.short, "other")
    assert {model.name.short for model in client.list()} == {MODEL, record.name.short, "other:latest"}
    assert client.show("other").capabilities == ("completion",)
    metadata = client.show("other").metadata
    assert metadata is not None
    assert metadata.architecture == "llama"
    client.delete("other")
    with pytest.raises(ModelNotFound, match="other"):
        client.show("other")


def test_loading_and_unloading(client: Corral) -> None:
    """A model is in memory from its load to its unload."""
    told: list[LoadProgress] = []
    assert client.load(MODEL, on_progress=told.append, keep_alive=-1) > 0
    assert {progress.stage for progress in told} == {"loading"}
    assert client.loaded()[0].expires_at is None
    assert len(client.loaded()) == 1
    assert client.unload(MODEL)
    assert client.loaded() == []
    assert not client.unload(MODEL)


def test_keep_alive_is_seconds_or_a_duration(client: Corral) -> None:
    """0 unloads after the answer."""
    client.generate(MODEL, "hello", keep_alive="10m")
    expires_at = client.loaded()[0].expires_at
    assert expires_at is not None
    assert expires_at - time.time() == pytest.approx(600, abs=5)
    client.generate(MODEL, "hello", keep_alive=0)
    assert eventually(lambda: client.loaded() == [])


def test_the_engine_of_a_call(setup: dict[str, Any]) -> None:
    """An engine is chosen by name for one call; without a name, no engine takes this format."""
    with Corral(**setup | {"settings": {"plugins.block": []}}) as client:
        assert client.chat(MODEL, "hello", engine="fake").engine == "fake"
        with pytest.raises(UnknownEngine):
            client.chat(MODEL, "hello", engine="steam")


def test_the_engine_as_an_option(setup: dict[str, Any]) -> None:
    """A request's options may name an engine too; the call's own argument takes precedence."""
    with Corral(**setup | {"engine": "llama-cpp"}) as client:
        assert client.chat(MODEL, "hello", options={"engine": "fake"}).engine == "fake"
        assert client.chat(MODEL, "hello", options={"engine": "steam"}, engine="fake").engine == "fake"
        with pytest.raises(UnknownEngine, match="there is no engine 'steam'"):
            client.chat(MODEL, "hello", options={"engine": "steam"})


def test_options_that_the_engine_ignores_are_told(client: Corral, caplog: pytest.LogCaptureFixture) -> None:
    """Ignored options are listed in the result, of a stream as well, and in the log; nothing if all have an effect."""
    options = {"mirostat": 2, "num_predict": 2, "top_n_sigma": 2.0}
    whole = client.chat(MODEL, "hello", options=options)
    assert set(whole.ignored_options) == {"mirostat", "top_n_sigma"}
    [line] = [record.getMessage() for record in caplog.records if "ignores" in record.getMessage()]
    assert line == f"{MODEL}: the fake engine ignores these options: {', '.join(whole.ignored_options)}"
    with client.generate(MODEL, "hello", stream=True, options=options) as stream:
        assert list(stream)
    assert stream.result.ignored_options == whole.ignored_options
    caplog.clear()
    assert client.chat(MODEL, "hello", options={"num_predict": 2}).ignored_options == ()
    assert "ignores" not in caplog.text


def test_an_answer_in_a_format(client: Corral) -> None:
    """Answers follow a schema; an invalid one is refused, and parts without effect are reported."""
    schema = {"type": "array", "items": {"enum": ["horse"]}, "minItems": 1, "maxItems": 1}
    assert json.loads(client.chat(MODEL, "hello", format=schema).text) == ["horse"]
    assert json.loads(client.generate(MODEL, "hello", format=schema).text) == ["horse"]
    assert client.chat(MODEL, "hello", format="json", options={"num_predict": 3}).text.startswith("{")
    [ignored] = client.chat(MODEL, "hello", format={**schema, "uniqueItems": True}).ignored_options
    assert "uniqueItems" in ignored
    with pytest.raises(InvalidRequest, match="Invalid type: strin"):
        client.chat(MODEL, "hello", format={"type": "strin"})
    with pytest.raises(InvalidOption, match="invalid format"):
        client.chat(MODEL, "hello", format="xml")  # type: ignore[call-overload]


def test_settings_of_one_model(setup: dict[str, Any], tmp_path: Path) -> None:
    """``[models."NAME"]`` yields to the call's own options and needs no engine named."""
    config = tmp_path / "config.toml"
    config.write_text(f'[models."{MODEL}"]\nengine = "fake"\noptions = {{ num_predict = 2 }}\n')
    setup = {name: value for name, value in setup.items() if name != "engine"}
    with Corral(**setup, config=config) as client:
        assert client.generate(MODEL, "hello").usage.generated_tokens == 2
        assert client.generate(MODEL, "hello", options={"num_predict": 3}).usage.generated_tokens == 3
        assert client.show(MODEL).record.parameters == {}
        with pytest.raises(UnknownEngine, match="steam"):
            client.generate(MODEL, "hello", options={"engine": "steam"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler.engine": "steam"}, "scheduler.engine: unknown name 'steam'"),
        ({"scheduler.runner": "bicycle"}, "scheduler.runner: unknown name 'bicycle'"),
        ({"store": "attic"}, "store: unknown name 'attic'"),
        ({"scheduler.queue": 2}, "unknown setting scheduler.queue"),
    ],
)
def test_settings_are_checked_at_the_first_use(settings: dict[str, Any], message: str) -> None:
    """An unknown choice is a `SettingsError` that lists the known ones."""
    with Corral(settings=settings) as client, pytest.raises(SettingsError, match=message):
        client.list()


def test_a_registry_that_nobody_has() -> None:
    """The error says what there is to choose from."""
    with Corral(settings={"registry": "shop"}) as client, pytest.raises(SettingsError) as caught:
        client.list()
    assert (caught.value.message, caught.value.remedy) == (
        "registry: unknown name 'shop'",
        "choose one of oci, ollama, docker, hf",
    )


def test_wrong_calls(client: Corral) -> None:
    """An invalid argument is refused with an error that names it."""
    with pytest.raises(ModelNotFound, match="absent"):
        client.chat("absent", "hello")
    with pytest.raises(InvalidOption, match="top_k"):
        client.chat(MODEL, "hello", options={"top_k": "many"})
    with pytest.raises(InvalidRequest, match="pictures"):
        client.chat(MODEL, [{"role": "user", "content": "hello", "pictures": []}])
    with pytest.raises(Unsupported, match="does not support images"):
        client.chat(MODEL, [{"role": "user", "content": "hello", "images": [b"GIF89a"]}])
    with pytest.raises(InvalidRequest, match="invalid message") as refused:
        client.chat(MODEL, [{"role": "user", "content": "hello", "images": ["horse.jpg"]}])
    assert refused.value.remedy == "an image is bytes, base64 in a string, or a Path"
    with pytest.raises(InvalidRequest, match="invalid message"):
        client.chat(MODEL, [{"role": "user", "content": 3}])
    with pytest.raises(InvalidRequest, match="invalid message"):
        client.chat(MODEL, [{"content": "hello"}])
    with pytest.raises(TypeError, match="temperature"):
        client.chat(MODEL, "hello", temperature=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="system"):
        client.embed(MODEL, "hello", system="x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="modles"):
        Corral(modles="x")  # type: ignore[call-arg]


def test_many_threads_share_one(client: Corral) -> None:
    """The same seed gives the same answer on any thread, regardless of what else runs."""
    texts: list[str] = []

    def ask() -> None:
        texts.append(client.generate(MODEL, "hello", options={"seed": 5}).text)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 8
    assert len(set(texts)) == 1


def test_it_works_where_a_loop_runs_already(client: Corral) -> None:
    """As in Jupyter: a blocking call inside a coroutine is answered from the other loop."""

    async def cell() -> str:
        return client.generate(MODEL, "hello").text

    assert asyncio.run(cell())


def test_closing_twice_is_fine(setup: dict[str, Any]) -> None:
    """After closing, every call says that it is closed."""
    client = Corral(**setup)
    client.generate(MODEL, "hello")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.list()


def test_closing_ends_a_stream(setup: dict[str, Any]) -> None:
    """A stream that is open when its Corral is closed ends with an error instead of hanging."""
    client = Corral(**setup | {"settings": SLOW})
    stream = client.generate(MODEL, "hello", stream=True)
    next(stream)
    client.close()
    with pytest.raises(RuntimeError):
        list(stream)


@pytest.mark.parametrize("how", ["close", "context", "forget"])
def test_leaving_a_stream_cancels_its_request(slow: Corral, how: str) -> None:
    """A stream that is closed, left by an exception, or forgotten releases the model at once."""
    stream = slow.generate(MODEL, "hello", stream=True)
    next(stream)
    assert not is_idle(slow)
    if how == "close":
        stream.close()
    elif how == "context":
        with pytest.raises(KeyError), stream:
            raise KeyError
    else:
        del stream
        gc.collect()
    assert eventually(lambda: is_idle(slow))


def test_a_stream_that_was_never_read_is_cancelled_too(slow: Corral) -> None:
    """It holds the model from the moment it is created."""
    stream = slow.generate(MODEL, "hello", stream=True)
    assert not is_idle(slow)
    del stream
    gc.collect()
    assert eventually(lambda: is_idle(slow))


@pytest.mark.skipif(os.name != "posix", reason="signals are sent to threads on POSIX only")
@pytest.mark.parametrize("streamed", [False, True])
def test_an_interrupt_cancels_the_call_and_not_the_loop(slow: Corral, streamed: bool) -> None:
    """Ctrl-C ends the call that waits; the same Corral answers the next one."""
    slow.load(MODEL)
    timer = threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()
    whole: Callable[[], object] = lambda: slow.generate(MODEL, "hello")  # noqa: E731
    chunks: Callable[[], object] = lambda: list(slow.generate(MODEL, "hello", stream=True))  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        (chunks if streamed else whole)()
    timer.join()
    assert eventually(lambda: is_idle(slow))
    assert slow.generate(MODEL, "hello", options={"num_predict": 1}).text


def answered_in(client: Corral) -> list[threading.Thread]:
    """The threads in which a new Corral has answered a question: those of its event loop and of its model's engine."""
    before = set(threading.enumerate())
    client.generate(MODEL, "hello")
    engines = [one for one in threading.enumerate() if one not in before and one.name == f"engine {MODEL}"]
    assert len(engines) == 1
    return [client._portal._thread, *engines]


def test_a_forgotten_corral_is_closed(setup: dict[str, Any]) -> None:
    """The thread of a forgotten Corral ends with it."""
    client = Corral(**setup)
    threads = answered_in(client)
    del client
    gc.collect()
    assert eventually(lambda: not any(thread.is_alive() for thread in threads))


def test_a_corral_forgotten_on_its_own_thread_is_closed(setup: dict[str, Any]) -> None:
    """The garbage collector runs on any thread; on the loop's own, which would wait for itself, it closes nothing."""
    holder = [Corral(**setup)]
    portal, threads = holder[0]._portal, answered_in(holder[0])

    async def forget() -> None:
        holder.clear()
        gc.collect()

    portal.call(forget)
    assert eventually(lambda: portal.closed and not any(thread.is_alive() for thread in threads))


def test_a_program_that_never_closes_still_ends(setup: dict[str, Any]) -> None:
    """The interpreter exits quietly with a loaded model and a stream that was half read."""
    program = (
        "import sys; from corral import Corral\n"
        "client = Corral(models=sys.argv[1], engine='fake')\n"
        f"stream = client.generate({MODEL!r}, 'hello', stream=True)\n"
        "print(next(stream).text)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(setup["models"])],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip()


def test_the_loops_own_thread_is_refused(client: Corral) -> None:
    """A blocking call from a progress callback would wait for itself."""

    async def call_back(_: AsyncCorral) -> None:
        client.list()

    with pytest.raises(RuntimeError, match="await AsyncCorral"):
        client.call(call_back)


def test_on_an_event_loop(setup: dict[str, Any]) -> None:
    """`AsyncCorral` streams, runs requests side by side, and closes twice."""

    async def main() -> None:
        async with AsyncCorral(**setup) as client:
            texts = await asyncio.gather(*(client.chat(MODEL, "hello", options={"seed": 1}) for _ in range(4)))
            assert len({answer.text for answer in texts}) == 1
            stream = await client.chat(MODEL, "hello", options={"seed": 1}, stream=True)
            assert "".join([chunk.text async for chunk in stream]) == texts[0].text
            assert stream.result.text == texts[0].text
        await client.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await client.list()

    asyncio.run(main())


def test_a_forgotten_stream_on_an_event_loop(setup: dict[str, Any]) -> None:
    """Breaking out of the loop and dropping the stream frees the model."""

    async def main() -> None:
        async with AsyncCorral(**setup | {"settings": SLOW}) as client:
            stream = await client.generate(MODEL, "hello", stream=True)
            async for _ in stream:
                break
            del stream
            gc.collect()
            for _ in range(500):
                if all(model.active == 0 for model in await client.loaded()):
                    return
                await asyncio.sleep(0.01)
            raise AssertionError("the request still runs")

    asyncio.run(main())


def test_a_runtime_of_somebody_elses(setup: dict[str, Any]) -> None:
    """A runtime that is handed in is used as it is, and left open."""

    async def main() -> None:
        async with AsyncCorral(**setup) as owner:
            async with AsyncCorral(runtime=await owner.runtime()) as guest:
                assert (await guest.generate(MODEL, "hello")).text
            assert (await owner.generate(MODEL, "hello")).text

    asyncio.run(main())
