"""The use cases of inference, over a small catalog, scheduler and model of fakes."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from corral.adapters.answer_parsers.hermes import HermesCalls
from corral.adapters.answer_parsers.think_tags import ThinkTagParsers
from corral.adapters.templates.go.language import GoLanguage
from corral.adapters.templates.language import JinjaLanguage
from corral.core.errors import (
    CorralError,
    EngineDied,
    InvalidOption,
    InvalidRequest,
    PluginError,
    PromptTooLong,
    Unsupported,
)
from corral.core.generation.parser_choice import ParserChoice
from corral.core.generation.service import InferenceService
from corral.core.models.digests import Digest
from corral.core.models.model import ModelMetadata, RemoteModel, StoredModel, TemplateText
from corral.core.models.names import ModelName, parse_name
from corral.core.models.view import ModelView
from corral.core.ports.answer_parsers import AnswerParserFactory
from corral.core.ports.chat import ChatLanguage, RenderedChat
from corral.core.ports.running import ModelInfo, Task
from corral.core.requests.caller import ANONYMOUS, Caller
from corral.core.requests.calls import ChatCall, ContextFile, EmbedCall, GenerateCall, LoadCall, UnloadCall
from corral.core.requests.messages import Message, ToolCall
from corral.core.requests.outputs import Delta, Embedded, Finished, Output, Started, Usage, Vectors
from corral.core.requests.principal import Principal
from corral.core.requests.prompts import MediaPart, Prompt, TextPart, prompt_text
from corral.core.requests.requests import ChatRequest, CompletionRequest, Constraint, EmbedRequest, Request
from corral.core.requests.vectors import rows
from corral.core.scheduling.leases import Lease
from corral.core.scheduling.load_progress import LoadListener
from corral.plugins.testing.images import png_bytes

_CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{{ '<|im_start|>assistant\n' }}"""
_IMAGE = png_bytes()
_RECORD = StoredModel(
    name=parse_name("tiny"), digest=Digest("sha256:" + "1" * 64), size_bytes=1, modified_at=0, format="gguf"
)


class FakeModel:
    """Answers "Hello" letter by letter, or with `vectors`; remembers requests, and which of them were closed."""

    def __init__(self, tasks: frozenset[str], error: CorralError | None = None) -> None:
        self.info = ModelInfo(tasks=tasks, features=frozenset({"tokenize"}), context_length=100)
        self.alive = True
        self.error = error
        self.requests: list[Request] = []
        self.running = asyncio.Event()
        self.answer = list("Hello")
        self.closed = 0
        self.tokenized = 0
        self.vectors = Vectors(dimensions=2, float32=array("f", [3, 4]).tobytes())

    async def run(self, request: Request) -> AsyncGenerator[Output, None]:
        self.requests.append(request)
        self.running.set()
        try:
            if self.error is not None:
                raise self.error
            if isinstance(request, EmbedRequest):
                yield Embedded(vectors=self.vectors, prompt_tokens=7)
                return
            yield Started(prompt_tokens=3)
            for piece in self.answer:
                await asyncio.sleep(0)
                yield Delta(text=piece, token_count=1)
            yield Finished(reason="stop", usage=Usage(prompt_tokens=3, generated_tokens=len(self.answer)))
        finally:
            self.closed += 1

    async def tokenize(
        self, prompts: Sequence[Prompt], *, most: int | None = None, cut: bool = False
    ) -> list[tuple[int, ...]]:
        self.tokenized += 1
        return [
            tuple(one for part in prompt for one in getattr(part, "ids", ()) or getattr(part, "text", "").encode())
            for prompt in prompts
        ]

    async def detokenize(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()

    async def pieces(self, ids: Sequence[int]) -> list[bytes]:
        return [bytes((one,)) for one in ids]

    async def aclose(self) -> None:
        self.alive = False


class FakeScheduler:
    """Leases one model; counts the current leases and records their requests."""

    def __init__(self, model: FakeModel) -> None:
        self.model = model
        self.active = 0
        self.asked: list[dict[str, Any]] = []
        self.callers: list[Caller] = []

    @asynccontextmanager
    async def lease(
        self,
        view: ModelView,
        *,
        load_options: Mapping[str, Any] = {},
        engine: str | None = None,
        tasks: Collection[Task] = (),
        keep_alive_s: float | UnsetType | None = UNSET,
        caller: Caller = ANONYMOUS,
        on_progress: LoadListener | None = None,
    ) -> AsyncIterator[Lease]:
        self.asked.append({"load": dict(load_options), "engine": engine, "keep_alive_s": keep_alive_s})
        self.callers.append(caller)
        self.active += 1
        try:
            yield Lease(model=self.model, record=view.record, load_ns=42, engine="fake")
        finally:
            self.active -= 1

    lease_tokenizer = lease

    async def unload(self, record: StoredModel) -> bool:
        return self.model.alive


class FakeCatalog:
    fim_ids: tuple[int, int, int] | None = None

    def __init__(self, record: StoredModel, capabilities: tuple[str, ...], template: str | None) -> None:
        self.record = record
        self._capabilities = capabilities
        self._template = template

    async def get(self, name: ModelName) -> StoredModel:
        return self.record

    async def list(self) -> list[StoredModel]:
        return [self.record]

    async def view(self, name: ModelName) -> ModelView:
        metadata = ModelMetadata(
            format="gguf",
            architecture="llama",
            file_type="F16",
            parameter_count=1,
            tensor_bytes=1,
            chat_template=self._template,
            fim_ids=self.fim_ids,
        )
        return ModelView(record=self.record, metadata=metadata, capabilities=self._capabilities)


class Bench:
    """A service over fakes, which record its calls."""

    def __init__(
        self,
        *,
        record: StoredModel = _RECORD,
        tasks: tuple[str, ...] = ("completion", "embedding"),
        capabilities: tuple[str, ...] = ("completion",),
        template: str | None = _CHATML,
        error: CorralError | None = None,
        features: tuple[str, ...] = (),
        parsers: dict[str, AnswerParserFactory] | None = None,
        languages: Mapping[str, ChatLanguage] = {},
    ) -> None:
        self.model = FakeModel(frozenset(tasks), error)
        self.model.info = msgspec.structs.replace(self.model.info, features=self.model.info.features.union(features))
        self.scheduler = FakeScheduler(self.model)
        self.catalog = FakeCatalog(record, capabilities, template)
        self.service = InferenceService(
            catalog=self.catalog,
            scheduler=self.scheduler,
            languages={"jinja": JinjaLanguage(), **languages},
            parsers=ParserChoice(
                {"think_tags": ThinkTagParsers()} if parsers is None else parsers, {"hermes": HermesCalls()}
            ),
        )

    def request(self) -> CompletionRequest:
        """The last request, which must be a completion."""
        request = self.model.requests[-1]
        assert isinstance(request, CompletionRequest)
        return request

    def generate(self, call: GenerateCall) -> list[Output]:
        async def main() -> list[Output]:
            return [output async for output in await self.service.generate(call)]

        return asyncio.run(main())

    def chat(self, call: ChatCall) -> list[Output]:
        async def main() -> list[Output]:
            return [output async for output in await self.service.chat(call)]

        return asyncio.run(main())


def _chat(*turns: tuple[str, str], **more: Any) -> ChatCall:
    return ChatCall(model="tiny", messages=tuple(Message(role=role, content=text) for role, text in turns), **more)


_FILLS_IN = TemplateText(kind="go", text="<P>{{ .Prompt }}<S>{{ .Suffix }}<M>{{ .Response }}")


@pytest.mark.parametrize(
    ("weights", "prompt"), [(None, "<P>a<S>b<M>"), ("{% if tools %}{% endif %}<think></think>", "ab")]
)
def test_a_suffix_goes_where_the_used_template_has_a_place_for_it(weights: str | None, prompt: str) -> None:
    """If the template in the weights is used, which has none, it goes between the vocabulary's own tokens."""
    record = msgspec.structs.replace(_RECORD, template=_FILLS_IN)
    go = {"go": GoLanguage()}
    bench = Bench(record=record, template=weights, capabilities=("completion", "insert"), languages=go)
    bench.catalog.fim_ids = (1, 2, 3)
    bench.generate(GenerateCall(model="tiny", prompt="a", suffix="b"))
    assert prompt_text(bench.request().prompt) == prompt


@pytest.mark.parametrize(
    "more", [{"suffix": "b", "images": (_IMAGE,)}, {"raw": True, "earlier_ids": (1,)}, {"raw": True, "system": "s"}]
)
def test_fields_that_exclude_each_other_are_refused(more: dict[str, Any]) -> None:
    """Nothing of a call is dropped silently, and nothing is loaded for it."""
    bench = Bench(capabilities=("completion", "insert", "vision"), features=("images",))
    bench.catalog.fim_ids = (1, 2, 3)
    with pytest.raises(InvalidRequest):
        bench.generate(GenerateCall(model="tiny", prompt="a", **more))
    assert not bench.scheduler.asked


@pytest.mark.parametrize(
    ("fim_ids", "prompt"), [(None, "<P>files\na<S>b<M>"), ((1, 2, 3), "\n\n--- snippet ---\n\nfilesab")]
)
def test_an_insertion_goes_by_the_models_own_tokens(fim_ids: tuple[int, int, int] | None, prompt: str) -> None:
    """If it has any; otherwise by its template. The model sees the other files in both."""
    record = msgspec.structs.replace(_RECORD, template=_FILLS_IN)
    bench = Bench(record=record, template=None, capabilities=("completion", "insert"), languages={"go": GoLanguage()})
    bench.catalog.fim_ids = fim_ids
    files = (ContextFile(name="x", text="files"),)
    bench.generate(GenerateCall(model="tiny", prompt="a", suffix="b", insert=True, files=files))
    assert prompt_text(bench.request().prompt) == prompt


@pytest.mark.parametrize("field", ["suffix", "template", "insert"])
def test_what_other_servers_do_not_get_is_refused(field: str) -> None:
    """A model on another server gets neither, whatever it can do."""
    record = msgspec.structs.replace(_RECORD, remote=RemoteModel(host="http://far", model="m"))
    bench = Bench(record=record, tasks=("chat", "completion"), capabilities=("completion", "insert"))
    with pytest.raises(Unsupported, match=f"{field} is not passed on"):
        bench.generate(msgspec.structs.replace(GenerateCall(model="tiny", prompt="a"), **{field: "b"}))


def test_a_prompt_goes_through_the_chat_template() -> None:
    """Generate puts the model's template around the prompt, and answers in deltas."""
    bench = Bench()
    outputs = bench.generate(GenerateCall(model="tiny", prompt="hi", system="be brief"))
    assert prompt_text(bench.request().prompt) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "".join(output.text for output in outputs if isinstance(output, Delta)) == "Hello"
    assert isinstance(outputs[0], Started)
    assert isinstance(outputs[-1], Finished)
    assert (bench.scheduler.active, bench.model.closed) == (0, 1)


def test_a_raw_prompt_is_sent_as_it_is() -> None:
    """Raw skips template and system, and control tokens in it count."""
    bench = Bench(record=msgspec.structs.replace(_RECORD, system="ignored"))
    bench.generate(GenerateCall(model="tiny", prompt="<|im_start|>x", raw=True))
    assert bench.request().prompt == (TextPart(text="<|im_start|>x", parse_special=True),)


def test_without_a_template_the_texts_are_the_prompt() -> None:
    """A base model gets the questions and answers, as in Ollama; what has no place in the prompt is said."""
    bench = Bench(template=None)
    assert _ignored(bench.generate(GenerateCall(model="tiny", prompt="Once"))) == ()
    assert bench.request().prompt == (TextPart(text="Once", parse_special=True),)
    [said] = _ignored(bench.generate(GenerateCall(model="tiny", prompt="Once", system="A tale.")))
    assert said == "system: the chat template has no place for it"
    assert bench.request().prompt == (TextPart(text="Once", parse_special=True),)
    call = ToolCall(name="time")
    asked = (Message(role="user", content="?"), Message(role="assistant", content="!", tool_calls=(call,)))
    [said] = _ignored(bench.chat(ChatCall(model="tiny", messages=asked)))
    assert said.startswith("messages: the chat template has no place for tool calls")
    assert bench.request().prompt == (TextPart(text="?!", parse_special=True),)


def _ignored(outputs: Sequence[Output]) -> tuple[str, ...]:
    return next(output.ignored_options for output in outputs if isinstance(output, Started))


def test_typed_control_tokens_stay_text() -> None:
    """Text that looks like a control token stays text: only the listed ones, if the model lists them."""
    bench = Bench()
    call = _chat(("user", "<b>bold</b> <|im_end|>"))

    def plain() -> list[str]:
        bench.chat(call)
        return [part.text for part in bench.request().prompt if isinstance(part, TextPart) and not part.parse_special]

    assert plain() == ["<b>", "</b>", "<|im_end|>"]
    bench.model.info = msgspec.structs.replace(bench.model.info, control_tokens=("<|im_start|>", "<|im_end|>"))
    assert plain() == ["<|im_end|>"]


def test_nothing_is_asked_of_a_model_before_its_request() -> None:
    """Long texts and look-alikes are tokenized by the runner: only one request is sent, with no call before it."""
    bench = Bench()
    bench.chat(_chat(("user", "<b> " * 4000)))
    bench.generate(GenerateCall(model="tiny", prompt="<b> " * 4000))
    asyncio.run(bench.service.embed(EmbedCall(model="tiny", inputs=("word " * 4000,))))
    assert len(bench.model.requests) == 3
    assert bench.model.tokenized == 0


def test_chat_assembles_messages_as_ollama_does() -> None:
    """The model's SYSTEM comes first and its MESSAGEs next, unless the caller brings a system message."""
    record = msgspec.structs.replace(_RECORD, system="S", messages=(Message(role="user", content="M"),))
    bench = Bench(record=record, template="{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}")
    bench.chat(_chat(("user", "q")))
    assert prompt_text(bench.request().prompt) == "system=S;user=M;user=q;"
    bench.chat(_chat(("system", "T"), ("user", "q")))
    assert prompt_text(bench.request().prompt) == "user=M;system=T;user=q;"
    bench.generate(GenerateCall(model="tiny", prompt="q", system="T"))
    assert prompt_text(bench.request().prompt) == "system=T;user=M;user=q;"


def test_chat_answers_in_chat_deltas() -> None:
    """Deltas of text become deltas of content, with their token counts."""
    outputs = Bench().chat(_chat(("user", "q")))
    assert [output.text for output in outputs if isinstance(output, Delta)] == list("Hello")
    assert sum(output.token_count for output in outputs if isinstance(output, Delta)) == 5


def test_a_chat_native_engine_gets_the_messages() -> None:
    """An engine that takes chats owns its template."""
    bench = Bench(tasks=("chat",))
    outputs = bench.chat(_chat(("user", "q")))
    request = bench.model.requests[0]
    assert isinstance(request, ChatRequest)
    assert request.messages == (Message(role="user", content="q"),)
    assert sum(isinstance(output, Delta) for output in outputs) == 5


_THINKING = "{{ messages[0].content.split('</think>')[-1] }}<think>"


def test_thinking_is_told_from_the_answer() -> None:
    """If the template has think tags, the text between them is thinking, in generate and chat alike."""
    bench = Bench(template=_THINKING)
    bench.model.answer = ["h", "m</thi", "nk>\n", "Yes"]
    for outputs in (bench.generate(GenerateCall(model="tiny", prompt="q")), bench.chat(_chat(("user", "q")))):
        deltas = [output for output in outputs if isinstance(output, Delta)]
        assert ("".join(one.thinking for one in deltas), "".join(one.text for one in deltas)) == ("hm", "Yes")
        assert sum(one.token_count for one in deltas) == 4
        assert isinstance(outputs[-1], Finished)
        assert bench.request().preserved_tokens == {"<think>", "</think>"}
    assert (bench.scheduler.active, bench.model.closed) == (0, 2)


def test_an_answer_is_left_alone_without_a_parser() -> None:
    """This holds with `think` false, in raw prompts, and for templates without think tags."""
    said = ["<think>hm</think>", "Yes"]
    bench = Bench(template=_THINKING)
    bench.model.answer = said
    plain = Bench()
    plain.model.answer = said
    for outputs in (
        bench.generate(GenerateCall(model="tiny", prompt="q", raw=True)),
        bench.chat(_chat(("user", "q"), think=False)),
        plain.chat(_chat(("user", "q"))),
    ):
        assert [(one.text, one.thinking) for one in outputs if isinstance(one, Delta)] == [(text, "") for text in said]


def test_a_parser_that_fails() -> None:
    """It only ends its answer."""

    class Failing(ThinkTagParsers):
        def open(self, request: ChatRequest, rendered: RenderedChat) -> Any:
            return self

        def feed(self, delta: Delta) -> tuple[Delta, ...]:
            raise PluginError("the plugin far, it: feed: ValueError: no luck")

        def finish(self) -> tuple[Delta, ...]:
            return ()

    failing = Bench(template=_THINKING, parsers={"think_tags": Failing()})
    with pytest.raises(PluginError, match="no luck"):
        failing.chat(_chat(("user", "q")))
    assert (failing.scheduler.active, failing.model.closed) == (0, 1)


def test_the_manifests_template_goes_before_the_weights() -> None:
    """A template in an unsupported language is skipped, like a Go template; without any, texts are joined."""
    jinja = TemplateText(kind="jinja", text="manifest")
    for template, weights, prompt in (
        (jinja, "weights", "manifest"),
        (TemplateText(kind="go", text="{{ .Prompt }}"), "weights", "weights"),
        (TemplateText(kind="go", text="{{ .Prompt }}"), None, "q"),
        (None, "weights", "weights"),
        (None, None, "q"),
    ):
        bench = Bench(record=msgspec.structs.replace(_RECORD, template=template), template=weights)
        bench.generate(GenerateCall(model="tiny", prompt="q"))
        assert prompt_text(bench.request().prompt) == prompt


@pytest.mark.parametrize("raw", [True, False])
def test_images_are_refused_by_whoever_cannot_take_them(raw: bool) -> None:
    """Refused for the model before it is loaded, otherwise by the engine by name; never dropped by a chat format."""
    calls: tuple[Callable[[Bench], list[Output]], ...] = (
        lambda bench: bench.generate(GenerateCall(model="tiny", prompt="q", images=(_IMAGE,), raw=raw)),
        lambda bench: bench.chat(ChatCall(model="tiny", messages=(Message(role="user", images=(_IMAGE,)),))),
    )
    for ask in calls:
        blind = Bench()
        with pytest.raises(Unsupported, match='"tiny" does not support images'):
            ask(blind)
        assert blind.scheduler.asked == []
        seeing = Bench(capabilities=("completion", "vision"))
        with pytest.raises(Unsupported, match='images: "tiny" runs on fake, which does not support images'):
            ask(seeing)
        assert (seeing.scheduler.active, seeing.model.requests) == (0, [])


def test_images_reach_an_engine_that_takes_them() -> None:
    """In a raw prompt and in a chat that the engine renders; a chat format that has no place for them says so."""
    bench = Bench(tasks=("completion", "chat"), capabilities=("completion", "vision"), features=("images",))
    bench.generate(GenerateCall(model="tiny", prompt="q", images=(_IMAGE,), raw=True))
    assert bench.request().prompt == (MediaPart(data=_IMAGE), TextPart(text="q", parse_special=True))
    bench.generate(GenerateCall(model="tiny", prompt="q", images=(_IMAGE,)))
    request = bench.model.requests[-1]
    assert isinstance(request, ChatRequest)
    assert request.messages == (Message(role="user", content="q", images=(_IMAGE,)),)
    template = TemplateText(kind="jinja", text="{{ messages | length }}")
    record = msgspec.structs.replace(_RECORD, template=template)
    bench = Bench(record=record, capabilities=("completion", "vision"), features=("images",))
    with pytest.raises(Unsupported, match="chat format"):
        bench.generate(GenerateCall(model="tiny", prompt="q", images=(_IMAGE,)))


def test_options_reach_their_places() -> None:
    """Model parameters, then request options; load options and keep-alive go to the scheduler."""
    bench = Bench(record=msgspec.structs.replace(_RECORD, parameters={"temperature": 0.1, "top_k": 3}))
    call = GenerateCall(
        model="tiny",
        prompt="q",
        options={"temperature": 0.9, "num_ctx": 64, "num_keep": 2},
        keep_alive_s=None,
        engine="fake",
        logprobs=2,
        shift=False,
    )
    bench.generate(call)
    request = bench.request()
    assert (request.sampling.temperature, request.sampling.top_k, request.logprobs) == (0.9, 3, 2)
    assert (request.context.num_ctx, request.context.num_keep, request.context.shift) == (64, 2, False)
    assert bench.scheduler.asked == [{"load": {"num_ctx": 64}, "engine": "fake", "keep_alive_s": None}]


def test_closing_early_aborts_and_gives_the_model_back() -> None:
    """After aclose the run is closed and the lease is back; twice is fine, and iterating on ends at once."""
    bench = Bench()

    async def main() -> list[Output]:
        generation = await bench.service.chat(_chat(("user", "q")))
        assert (generation.record, generation.load_ns, generation.engine) == (_RECORD, 42, "fake")
        await anext(generation)
        await anext(generation)
        assert bench.scheduler.active == 1
        await generation.aclose()
        assert (bench.scheduler.active, bench.model.closed) == (0, 1)
        await generation.aclose()
        return [output async for output in generation]

    assert asyncio.run(main()) == []


def test_a_generation_that_never_ran_is_closed_as_well() -> None:
    """Closing before the first output returns the lease and runs nothing."""
    bench = Bench()

    async def main() -> None:
        async with await bench.service.generate(GenerateCall(model="tiny", prompt="q")):
            pass

    asyncio.run(main())
    assert (bench.scheduler.active, bench.model.requests) == (0, [])


def test_cancelling_the_reader_gives_the_model_back() -> None:
    """A task cancelled while it waits for the next output leaves nothing behind."""
    bench = Bench()

    async def read() -> None:
        async for _ in await bench.service.generate(GenerateCall(model="tiny", prompt="q")):
            pass

    async def main() -> None:
        task = asyncio.create_task(read())
        await bench.model.running.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert (bench.scheduler.active, bench.model.closed) == (0, 1)


@pytest.mark.parametrize(
    ("make", "call", "expected"),
    [
        (lambda: Bench(error=EngineDied("gone")), GenerateCall(model="tiny", prompt="q"), "gone"),
        (
            lambda: Bench(capabilities=("embedding",)),
            GenerateCall(model="tiny", prompt="q"),
            '"tiny" does not support generate',
        ),
        (
            lambda: Bench(tasks=("embedding",)),
            GenerateCall(model="tiny:latest", prompt="q"),
            '"tiny:latest" does not support generate',
        ),
        (
            lambda: Bench(),
            GenerateCall(model="tiny", prompt="q", options={"top_k": "x"}),
            'option "top_k" must be of type integer',
        ),
        (
            lambda: Bench(template="{% for m in messages %}{{ raise_exception('no') }}{% endfor %}"),
            GenerateCall(model="tiny", prompt="q"),
            "chat template: no",
        ),
        (lambda: Bench(template="{% if %}"), GenerateCall(model="tiny", prompt="q"), "chat template, line 1"),
    ],
)
def test_no_error_keeps_the_model(make: Callable[[], Bench], call: GenerateCall, expected: str) -> None:
    """Whatever goes wrong, the caller gets the error, and the lease is returned."""
    bench = make()
    with pytest.raises(CorralError) as caught:
        bench.generate(call)
    assert expected in str(caught.value)
    assert bench.scheduler.active == 0


def test_an_embedding_model_does_not_chat_and_is_not_loaded_for_it() -> None:
    """The refusal has Ollama's text and comes before anything is loaded."""
    bench = Bench(capabilities=("embedding",))
    with pytest.raises(Unsupported, match='"tiny" does not support chat'):
        bench.chat(_chat(("user", "q")))
    assert bench.scheduler.asked == []


def test_a_format_needs_an_engine_that_can_hold_to_it() -> None:
    """Without the feature the field and the engine are named; with it the model gets the constraint."""
    bench = Bench()
    constraint = Constraint(kind="json_schema", source="{}")
    asks: tuple[Callable[[], list[Output]], ...] = (
        lambda: bench.generate(GenerateCall(model="tiny", prompt="q", constraint=constraint)),
        lambda: bench.chat(_chat(("user", "q"), constraint=constraint)),
    )
    for ask in asks:
        bench.model.info = ModelInfo(tasks=frozenset({"completion"}))
        with pytest.raises(Unsupported, match='format: "tiny" runs on fake, which does not support formats'):
            ask()
        assert bench.scheduler.active == 0
        bench.model.info = ModelInfo(tasks=frozenset({"completion"}), features=frozenset({"constraints"}))
        ask()
        assert bench.request().constraint == constraint


def test_errors_of_calls_are_raised_before_anything_runs() -> None:
    """Bad options and a template's complaint are raised by the call itself, not by the first output."""
    bench = Bench(template="{% for m in messages %}{{ raise_exception('no') }}{% endfor %}")

    async def main() -> None:
        with pytest.raises(InvalidOption):
            await bench.service.chat(_chat(("user", "q"), options={"seed": "x"}))
        with pytest.raises(InvalidRequest, match="chat template: no"):
            await bench.service.chat(_chat(("user", "q")))

    asyncio.run(main())
    assert (bench.scheduler.active, bench.model.requests) == (0, [])


def test_embeddings_are_scaled_and_counted() -> None:
    """Vectors have length 1; control tokens in inputs are text; options reach the request."""
    bench = Bench()
    call = EmbedCall(model="tiny", inputs=("a",), truncate=False, options={"num_ctx": 50})
    result = asyncio.run(bench.service.embed(call))
    assert list(next(rows(result.vectors))) == pytest.approx([0.6, 0.8])
    assert (result.prompt_tokens, result.load_ns) == (7, 42)
    assert result.total_ns > 0
    assert bench.model.requests == [EmbedRequest(inputs=((TextPart(text="a"),),), truncate=False, num_ctx=50)]
    assert bench.scheduler.active == 0


def test_embeddings_can_stay_as_the_model_gave_them() -> None:
    """Without `normalise` the vector is the model's own, and an empty list only loads."""
    bench = Bench()
    result = asyncio.run(bench.service.embed(EmbedCall(model="tiny", inputs=("a",), normalise=False)))
    assert list(next(rows(result.vectors))) == [3, 4]
    nothing = asyncio.run(bench.service.embed(EmbedCall(model="tiny", inputs=())))
    assert (nothing.vectors.count, len(bench.model.requests)) == (0, 1)


def test_an_input_that_is_too_long_has_ollamas_text() -> None:
    """The engine's complaint becomes the text clients know, and its remedy is kept."""
    bench = Bench(error=PromptTooLong("9 tokens, 4 fit", "shorten it"))
    with pytest.raises(PromptTooLong, match="the input length exceeds the context length") as caught:
        asyncio.run(bench.service.embed(EmbedCall(model="tiny", inputs=("a",), truncate=False)))
    assert caught.value.remedy == "shorten it"
    assert bench.scheduler.active == 0


@pytest.mark.parametrize("tasks", [("completion", "embedding"), ("chat", "embedding")])
def test_who_asks_is_known_everywhere(tasks: tuple[str, ...]) -> None:
    """Scheduler and engine learn who sent each request, and which servers it has passed."""
    caller = Caller(principal=Principal(name="ann"), passed=("a" * 32,))
    bench = Bench(tasks=tasks)
    bench.generate(GenerateCall(model="tiny", prompt="q", caller=caller))
    bench.chat(_chat(("user", "q"), caller=caller))
    asyncio.run(bench.service.embed(EmbedCall(model="tiny", inputs=("q",), caller=caller)))
    asyncio.run(bench.service.load(LoadCall(model="tiny", caller=caller)))
    assert bench.scheduler.callers == [caller] * 4
    assert [request.caller for request in bench.model.requests] == [caller] * 3


def test_load_and_unload_go_to_the_scheduler() -> None:
    """Load returns how long it took and gives the lease back; unload says whether there was anything to free."""
    bench = Bench()
    assert asyncio.run(bench.service.load(LoadCall(model="tiny", options={"num_gpu": 0}, keep_alive_s=5.0))) == 42
    assert bench.scheduler.asked == [{"load": {"num_gpu": 0}, "engine": None, "keep_alive_s": 5.0}]
    assert bench.scheduler.active == 0
    assert asyncio.run(bench.service.unload(UnloadCall(model="tiny"))) is True


def test_an_option_that_nobody_knows_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is accepted, as in Ollama; the log has its name but not its value, and no texts that are no names."""
    options = {"temprature": "secret", "my secret": 1, "secret\nline": 1}
    asyncio.run(Bench().service.load(LoadCall(model="tiny", options=options)))
    assert "tiny:latest: ignored options: 'temprature', others: 2" in caplog.text
    assert "secret" not in caplog.text


def test_what_an_engine_cannot_do_with_a_model_names_the_engine() -> None:
    """Another engine may support them: the remedy says where they are listed."""
    bench = Bench(tasks=("completion",))
    with pytest.raises(Unsupported, match='"tiny" does not support embeddings') as caught:
        asyncio.run(bench.service.embed(EmbedCall(model="tiny", inputs=("a",))))
    assert "it runs on fake, which cannot do this; corral show" in (caught.value.remedy or "")
    assert bench.scheduler.active == 0
