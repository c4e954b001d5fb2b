"""A request's texts are tokenized before the engine gets them, in parallel to its steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue

import msgspec
import pytest

from corral.adapters.engines.fake import FakeEngine, FakeLoadOptions, FakeTokenizer
from corral.adapters.runners.frames import Abort, Add, Close
from corral.adapters.runners.stepping import Command, Stepper
from corral.core.errors import ErrorInfo, PromptTooLong
from corral.core.ports.tokens import Tokenizer, TokenMask
from corral.core.requests.outputs import Embedded, Finished, Output, Ranked
from corral.core.requests.prompts import Prompt, TextPart, TokensPart, joined
from corral.core.requests.requests import (
    CompletionRequest,
    ContextPolicy,
    EmbedRequest,
    Request,
    RerankRequest,
    SamplingParams,
)
from corral.core.stepping.loops import Outcome, StepLoop

LONG = "zq " * 3000  # a token for each character


class ShutTokenizer:
    """A tokenizer without a vocabulary that records which threads called it, and waits until it may continue."""

    def __init__(self) -> None:
        self.inner = FakeTokenizer()
        self.threads: list[str] = []
        self.let = threading.Event()
        self.let.set()
        self.called = threading.Event()

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        self.threads.append(threading.current_thread().name)
        self.called.set()
        assert self.let.wait(10)
        return self.inner.encode(prompts)

    def decode(self, ids: Sequence[int]) -> bytes:
        return self.inner.decode(ids)


class GradualShutTokenizer(ShutTokenizer):
    """The same, one piece at a time; counts the pieces."""

    pieces = 0

    def encode_gradually(
        self, prompt: Prompt, *, most: int | None = None, cut: bool = False
    ) -> Generator[None, None, tuple[int, ...]]:
        self.threads.append(threading.current_thread().name)
        while True:
            self.pieces += 1
            if self.let.is_set():
                [ids] = self.inner.encode([prompt])
                return ids
            yield


class RecordingEngine(FakeEngine):
    """The fake engine; records the requests that it received."""

    def __init__(self, tokenizer: Tokenizer | None, **options: int) -> None:
        super().__init__(FakeLoadOptions(answer="no", num_ctx=options.get("num_ctx", 100_000)))
        self.shown = tokenizer
        self.taken: list[Request] = []

    @property
    def tokenizer(self) -> Tokenizer | None:  # type: ignore[override]
        return self.shown

    def add_request(self, request_id: int, request: Request, mask: TokenMask | None) -> None:
        self.taken.append(request)
        super().add_request(request_id, request, mask)


class Turning:
    """A loop that runs in a thread, and how each request ended."""

    def __init__(self, engine: FakeEngine) -> None:
        self.inbox: SimpleQueue[Command] = SimpleQueue()
        self.ends: SimpleQueue[tuple[int, Output | ErrorInfo]] = SimpleQueue()
        self._thread = threading.Thread(target=Stepper(StepLoop(engine), self.inbox, self._take).run, name="steps")
        self._thread.start()

    def __enter__(self) -> Turning:
        return self

    def __exit__(self, *exc: object) -> None:
        self.inbox.put(Close())
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _take(self, outcomes: list[Outcome]) -> None:
        for request_id, item in outcomes:
            if isinstance(item, Finished | Embedded | Ranked | ErrorInfo):
                self.ends.put((request_id, item))


def ask(*parts: TextPart | TokensPart, num_ctx: int | None = None) -> CompletionRequest:
    return CompletionRequest(
        prompt=parts,
        sampling=SamplingParams(temperature=0.0, num_predict=1, stop=("never",)),
        context=ContextPolicy(num_ctx=num_ctx),
    )


def template(text: str) -> TextPart:
    return TextPart(text=text, parse_special=True)


def typed(text: str) -> TextPart:
    return TextPart(text=text)


def prompt_of(request: Request) -> Prompt:
    assert isinstance(request, CompletionRequest)
    return request.prompt


@pytest.mark.parametrize("kind", [ShutTokenizer, GradualShutTokenizer])
def test_a_long_text_reaches_the_engine_as_ids(kind: Callable[[], ShutTokenizer]) -> None:
    """It is tokenized outside the engine's thread; everything else in the request is unchanged."""
    tokenizer = kind()
    engine = RecordingEngine(tokenizer)
    request = ask(template(LONG))
    with Turning(engine) as turning:
        turning.inbox.put(Add(1, request))
        assert isinstance(turning.ends.get(timeout=10)[1], Finished)
    [ids] = tokenizer.inner.encode([request.prompt])
    [taken] = engine.taken
    assert prompt_of(taken) == (TokensPart(ids=ids),)
    assert isinstance(taken, CompletionRequest)
    assert (taken.sampling, taken.context) == (request.sampling, request.context)
    assert "steps" not in tokenizer.threads


def test_a_short_prompt_is_taken_in_at_once() -> None:
    """If there is nothing to settle, no other thread is involved."""
    tokenizer = ShutTokenizer()
    engine = RecordingEngine(tokenizer)
    before = set(threading.enumerate())
    with Turning(engine) as turning:
        request = ask(template("<|im_start|>user\n"), typed("as it is"), template("<|im_end|>"))
        turning.inbox.put(Add(1, request))
        assert isinstance(turning.ends.get(timeout=10)[1], Finished)
        assert len(set(threading.enumerate()) - before) == 1
    assert engine.taken == [request]
    assert tokenizer.threads == []


def test_what_only_looks_like_a_control_token_joins_its_text() -> None:
    """Real control tokens that people typed stay apart, and so does a plain text that looks like none; ids stay."""
    engine = RecordingEngine(ShutTokenizer())
    prompt = (template("a "), typed("<b>"), template(" b "), typed("<|im_end|>"), TokensPart(ids=(1,)), typed("plain"))
    with Turning(engine) as turning:
        turning.inbox.put(Add(1, ask(*prompt)))
        assert isinstance(turning.ends.get(timeout=10)[1], Finished)
    assert prompt_of(engine.taken[0]) == (template("a <b> b "), *prompt[3:])


@pytest.mark.parametrize("tokenizer", [None, FakeTokenizer()])
def test_look_alikes_are_not_settled_where_nothing_is_to_be_settled(tokenizer: Tokenizer | None) -> None:
    """Nothing is settled if there is no tokenizer, or if the vocabulary was already known to the template."""
    engine = RecordingEngine(tokenizer)
    request = ask(template("a "), typed("<b>"))
    with Turning(engine) as turning:
        turning.inbox.put(Add(1, request))
        assert isinstance(turning.ends.get(timeout=10)[1], Finished)
    assert engine.taken == [request]


@pytest.mark.parametrize("kind", [ShutTokenizer, GradualShutTokenizer])
def test_others_are_answered_while_a_long_text_is_tokenized(kind: Callable[[], ShutTokenizer]) -> None:
    """A later request is answered first."""
    tokenizer = kind()
    tokenizer.let.clear()
    with Turning(RecordingEngine(tokenizer)) as turning:
        turning.inbox.put(Add(1, ask(template(LONG))))
        turning.inbox.put(Add(2, ask(template("x"))))
        assert turning.ends.get(timeout=10)[0] == 2
        tokenizer.let.set()
        assert turning.ends.get(timeout=10)[0] == 1


def test_a_request_that_is_given_up_is_tokenized_no_further() -> None:
    """It never reaches the engine, and what waits behind it does."""
    tokenizer = GradualShutTokenizer()
    tokenizer.let.clear()
    engine = RecordingEngine(tokenizer)
    with Turning(engine) as turning:
        turning.inbox.put(Add(1, ask(template(LONG))))
        turning.inbox.put(Add(2, ask(template(LONG))))
        turning.inbox.put(Abort(1))
        turning.inbox.put(Add(3, ask(template("x"))))
        assert turning.ends.get(timeout=10)[0] == 3  # so the abort has been taken
        tokenizer.let.set()
        assert turning.ends.get(timeout=10)[0] == 2
    assert len(engine.taken) == 2


def test_closing_does_not_wait_for_a_text() -> None:
    """The loop ends while a text is still being tokenized."""
    tokenizer = ShutTokenizer()
    tokenizer.let.clear()
    engine = RecordingEngine(tokenizer)
    try:
        with Turning(engine) as turning:
            turning.inbox.put(Add(1, ask(template(LONG))))
            assert tokenizer.called.wait(10)
    finally:
        tokenizer.let.set()
    assert engine.taken == []


@pytest.mark.parametrize("num_ctx", [None, 50])
def test_a_text_that_does_not_fit_is_the_callers_error(num_ctx: int | None) -> None:
    """It is refused unless it leaves room for an answer in the request's context and the model's."""
    engine = RecordingEngine(ShutTokenizer(), num_ctx=100 if num_ctx is None else 100_000)
    with Turning(engine) as turning:
        turning.inbox.put(Add(1, ask(template(LONG), num_ctx=num_ctx)))
        _, error = turning.ends.get(timeout=10)
    assert isinstance(error, ErrorInfo)
    assert error.code == "prompt_too_long"
    assert f"the {(num_ctx or 100) - 1} that fit" in error.message
    assert engine.taken == []


def test_long_inputs_of_embeddings_are_ids_too() -> None:
    """One for each input, and cut if that is allowed."""
    tokenizer = ShutTokenizer()
    engine = RecordingEngine(tokenizer)
    inputs = ((typed(LONG),), (typed("x"),))
    with Turning(engine) as turning:
        turning.inbox.put(Add(1, EmbedRequest(inputs=inputs)))
        assert isinstance(turning.ends.get(timeout=10)[1], Embedded)
        turning.inbox.put(Add(2, EmbedRequest(inputs=inputs, num_ctx=7)))
        assert isinstance(turning.ends.get(timeout=10)[1], Embedded)
        turning.inbox.put(Add(3, EmbedRequest(inputs=inputs, num_ctx=7, truncate=False)))
        _, error = turning.ends.get(timeout=10)
    whole, cut = engine.taken
    assert isinstance(whole, EmbedRequest)
    assert isinstance(cut, EmbedRequest)
    ids = tokenizer.inner.encode(inputs)
    assert whole.inputs == tuple((TokensPart(ids=one),) for one in ids)
    assert cut.inputs == ((TokensPart(ids=ids[0][:8]),), (TokensPart(ids=ids[1]),))
    assert isinstance(error, ErrorInfo)
    assert error.code == "prompt_too_long"


def test_long_texts_of_reranking_are_ids_too() -> None:
    """Those of the query and of each document; a query that does not fit is refused, whatever may be cut."""
    tokenizer = ShutTokenizer()
    engine = RecordingEngine(tokenizer)
    request = RerankRequest(query=(typed("x"),), documents=((typed(LONG),), (typed("x"),)), num_ctx=7)
    with Turning(engine) as turning:
        turning.inbox.put(Add(1, request))
        assert isinstance(turning.ends.get(timeout=10)[1], Ranked)
        turning.inbox.put(Add(2, msgspec.structs.replace(request, query=(typed(LONG),))))
        _, error = turning.ends.get(timeout=10)
    [taken] = engine.taken
    assert isinstance(taken, RerankRequest)
    assert [len(part.ids) for [part] in (taken.query, *taken.documents) if isinstance(part, TokensPart)] == [2, 8, 2]
    assert isinstance(error, ErrorInfo)
    assert error.code == PromptTooLong.code


def test_a_tokenizer_that_panics_answers_its_request() -> None:
    """A BaseException ends the request too, and the next one is tokenized."""

    class Panic(BaseException):
        pass

    class Panicking(ShutTokenizer):
        def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
            if not self.threads:
                self.threads.append("")
                raise Panic("index out of bounds")
            return super().encode(prompts)

    with Turning(RecordingEngine(Panicking())) as turning:
        turning.inbox.put(Add(1, ask(template(LONG))))
        _, error = turning.ends.get(timeout=10)
        assert isinstance(error, ErrorInfo)
        assert error.message == "the engine raised Panic: index out of bounds"
        turning.inbox.put(Add(2, ask(template(LONG))))
        assert isinstance(turning.ends.get(timeout=10)[1], Finished)


def test_parts_are_joined_by_kind() -> None:
    """Neighbouring texts of one kind are merged, empty ones removed, and ids stay where they are."""
    ids = TokensPart(ids=(1, 2))
    parts = (typed(""), template("a"), template("b"), typed("c"), ids, ids, typed("d"), typed("e"), template(""))
    assert joined(parts) == (template("ab"), typed("c"), ids, ids, typed("de"))
    assert joined(()) == ()
