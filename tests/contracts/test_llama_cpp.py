"""The llama.cpp engine with real weights: its port's contract, every option, caching, exactness, failures."""

from __future__ import annotations

import importlib.util
import math
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.engine_kit.thread_counts import most_threads
from corral.adapters.engines.llama_cpp.architectures import ARCHITECTURES
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.loader import load
from corral.adapters.engines.llama_cpp.streams import common_prefix
from corral.core.errors import Cancelled, EngineDied, InvalidModelFile, InvalidOption, InvalidRequest, LoadFailed
from corral.core.ports.engines import StepEngine
from corral.core.requests.outputs import (
    ContextShifted,
    EngineEmbedded,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    Prefilled,
    Token,
)
from corral.core.requests.prompts import TextPart, TokensPart
from corral.core.requests.requests import CompletionRequest, ContextPolicy, EmbedRequest, SamplingParams
from corral.core.specs.engines import LoadRequest, LocalFile
from corral.plugins.testing import StepEngineContract
from corral.plugins.testing.gguf import gguf_bytes
from tests.contracts.llama_engines import loaded_engine

pytestmark = pytest.mark.native

OCEAN = "The ocean is wide and deep, and ships have crossed it for thousands of years to trade and to explore. "


def make(path: Path, **options: object) -> LlamaCppEngine:
    return loaded_engine(path, options={"num_ctx": 512, "num_parallel": 4, **options})


def ask(
    text: str, *, logprobs: int | None = None, context: Mapping[str, object] | None = None, **sampling: Any
) -> CompletionRequest:
    params = SamplingParams(**{"temperature": 0.0, **sampling})
    policy = ContextPolicy(**(context or {}))  # type: ignore[arg-type]
    return CompletionRequest(
        prompt=(TextPart(text=text, parse_special=True),), sampling=params, context=policy, logprobs=logprobs
    )


@dataclass
class Answer:
    """The outputs of one request."""

    text: bytes = b""
    tokens: list[Token] = field(default_factory=list)
    prefilled: Prefilled | None = None
    finish: str | None = None
    dropped: int = 0
    error: str | None = None

    def take(self, output: EngineOutput) -> None:
        if isinstance(output, Token):
            self.text += output.piece
            self.tokens.append(output)
        elif isinstance(output, Prefilled):
            self.prefilled = output
        elif isinstance(output, EngineFinished):
            self.finish = output.reason
        elif isinstance(output, ContextShifted):
            self.dropped += output.dropped_tokens
        elif isinstance(output, EngineFailed):
            self.error = output.error.message

    @property
    def numbers(self) -> list[tuple[int | None, float]]:
        """The id and the log-probability of each token."""
        return [(token.token_id, token.logprob.logprob) for token in self.tokens if token.logprob is not None]

    @property
    def cached(self) -> int:
        assert self.prefilled is not None
        return self.prefilled.cached_tokens


def answer(engine: StepEngine, *requests: CompletionRequest, limit: int = 16) -> list[Answer]:
    """Run requests together; each is aborted after `limit` tokens, as a driver would."""
    answers = [Answer() for _ in requests]
    for request_id, request in enumerate(requests):
        engine.add_request(request_id, request, None)
    while engine.has_unfinished_requests():
        for request_id, output in engine.step():
            mine = answers[request_id]
            if len(mine.tokens) < limit:
                mine.take(output)
                if len(mine.tokens) == limit:
                    engine.abort_request(request_id)
    return answers


@pytest.fixture(scope="module")
def sensible(smollm2: Path) -> Iterator[LlamaCppEngine]:
    """One engine for all tests of words that leave it unchanged."""
    engine = make(smollm2)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def weights(shallow: Callable[[str], Path]) -> Path:
    """Real weights, for whatever does not depend on the words."""
    return shallow("Q4_1")


@pytest.fixture(scope="module")
def engine(weights: Path) -> Iterator[LlamaCppEngine]:
    """One engine for all other tests that leave it unchanged."""
    engine = make(weights)
    yield engine
    engine.close()


class TestContract(StepEngineContract):
    """The llama.cpp engine passes the suite of its port."""

    @pytest.fixture
    def engine(self, weights: Path) -> StepEngine:
        return make(weights)

    @pytest.fixture
    def vocabulary_size(self) -> int:
        return 49_152


def test_a_load_that_is_cancelled(smollm2: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An exception from the progress callback ends the load and reaches the caller, without a traceback from ctypes."""
    request = LoadRequest(model="test", files=(LocalFile(role="weights", path=str(smollm2)),), load_options={})

    def cancel(share: float) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        load(request, cancel)
    assert "Exception ignored" not in capfd.readouterr().err


def test_progress_is_reported_after_the_weights_too(weights: Path) -> None:
    """What is tried out then takes long with a large model, and must not seem to stall."""
    request = LoadRequest(model="test", files=(LocalFile(role="weights", path=str(weights)),), load_options={})
    shares: list[float] = []
    load(request, shares.append).close()
    assert shares == sorted(shares)
    assert shares.count(1.0) > 3


# ── Words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_knows_the_capital_of_france(sensible: LlamaCppEngine) -> None:
    """A plain completion of real weights makes sense."""
    assert answer(sensible, ask("The capital of France is"))[0].text.startswith(b" Paris")


def test_control_tokens_in_plain_text_stay_text(engine: LlamaCppEngine) -> None:
    """Control tokens are parsed only in parts that ask for it; decoding shows them again."""
    text = "<|im_start|>user"
    [special, plain] = engine.tokenizer.encode(
        [(TextPart(text=text, parse_special=True),), (TextPart(text=text, parse_special=False),)]
    )
    assert len(special) < len(plain)
    assert engine.tokenizer.decode(special).decode() == text
    assert engine.tokenizer.decode(plain).decode() == text


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 5},
        {"top_p": 0.5},
        {"min_p": 0.2},
        {"typical_p": 0.5},
        {"top_n_sigma": 1.0},
        {"xtc_probability": 1.0, "xtc_threshold": 0.05},
        {"dynatemp_range": 0.5},
        {"mirostat": 1},
        {"mirostat": 2},
        {"repeat_penalty": 1.8},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 1.5},
        {"logit_bias": ((" the", -100.0),)},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_sampling_option_reaches_the_sampler(
    engine: LlamaCppEngine, drawn_without_options: list[bytes], options: Mapping[str, Any]
) -> None:
    """Each option changes the texts of fixed seeds, and repeating a seed repeats its text."""
    drawn = draw(engine, options)
    assert drawn == draw(engine, options)
    assert drawn != drawn_without_options


def test_dry_reaches_the_sampler(sensible: LlamaCppEngine) -> None:
    """It changes texts too, where the model would repeat the prompt."""
    drawn = draw(sensible, {"dry_multiplier": 2.0})
    assert drawn == draw(sensible, {"dry_multiplier": 2.0})
    assert drawn != draw(sensible, {})


def draw(engine: LlamaCppEngine, options: Mapping[str, Any]) -> list[bytes]:
    """The continuations of a repetitive text with four seeds."""
    repetitive = "the sea and the sky and the sea and the sky and the sea and the"
    sampling = {"temperature": 1.2, "top_k": 0, "top_p": 1.0, **options}
    asked = [ask(repetitive, seed=seed, **sampling) for seed in range(4)]
    return [one.text for one in answer(engine, *asked, limit=8)]


@pytest.fixture(scope="module")
def drawn_without_options(engine: LlamaCppEngine) -> list[bytes]:
    return draw(engine, {})


def test_a_bias_forbids_and_forces(sensible: LlamaCppEngine) -> None:
    """A bias of minus infinity forbids a token; a large one forces it."""
    [paris] = sensible.tokenizer.encode([(TextPart(text=" Paris"),)])
    [zebra] = sensible.tokenizer.encode([(TextPart(text=" zebra"),)])
    prompt = "The capital of France is"
    [without] = answer(sensible, ask(prompt, logit_bias=((paris[0], float("-inf")),)), limit=1)
    [forced] = answer(sensible, ask(prompt, logit_bias=((zebra[0], 100.0),)), limit=1)
    assert without.tokens[0].token_id != paris[0]
    assert forced.tokens[0].token_id == zebra[0]
    with pytest.raises(InvalidOption, match="999999"):
        sensible.add_request(0, ask(prompt, logit_bias=((999_999, 1.0),)), None)


def test_ignore_eos_goes_on(sensible: LlamaCppEngine) -> None:
    """With `ignore_eos`, a chat answer continues past its end."""
    chat = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"
    [usual] = answer(sensible, ask(chat), limit=60)
    [endless] = answer(sensible, ask(chat, ignore_eos=True), limit=60)
    assert usual.finish == "stop"
    assert usual.tokens[-1].piece == b""
    assert len(endless.tokens) == 60


# ── Context and cache ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_shared_prefix_is_computed_once(weights: Path) -> None:
    """Requests that arrive together with the same beginning wait for one of them to compute it."""
    engine = make(weights)
    system = OCEAN * 4
    answers = answer(engine, *(ask(f"{system} Question {index}: what about ship {index}?") for index in range(4)))
    shared = len(engine.tokenizer.encode([(TextPart(text=system),)])[0])
    assert answers[0].cached == 0
    assert all(one.cached >= shared - 2 for one in answers[1:])
    [again] = answer(engine, ask(f"{system} Something else?"))
    assert again.cached >= shared - 2
    engine.close()


def test_an_aborted_prefill_lets_its_followers_go_on(weights: Path) -> None:
    """A request that waits for another's prefix uses what has been computed if the other is cancelled, and is
    answered."""
    engine = make(weights, num_batch=64)
    for request_id in range(3):
        engine.add_request(request_id, ask(OCEAN * 10 + f"Ship {request_id}"), None)
    engine.step()
    engine.abort_request(0)
    finished: set[int] = set()
    while len(finished) < 2:
        finished |= {request_id for request_id, output in engine.step() if isinstance(output, Token)}
    assert finished == {1, 2}
    engine.close()


def test_a_long_prompt_holds_nobody_up(weights: Path) -> None:
    """While an answer is generated, a step computes at most the budget of prompt tokens and still yields a token."""
    engine = make(weights, max_prefill_tokens=32)
    engine.add_request(1, ask("Once upon a time"), None)
    while not any(isinstance(output, Token) for _, output in engine.step()):
        pass
    engine.add_request(2, ask(OCEAN * 12), None)
    steps = 0
    while True:
        outputs = engine.step()
        assert any(request_id == 1 and isinstance(output, Token) for request_id, output in outputs)
        steps += 1
        if any(request_id == 2 for request_id, _ in outputs):
            break
    assert steps >= len(engine.tokenizer.encode([(TextPart(text=OCEAN * 12),)])[0]) // 32
    engine.close()


def test_a_full_context_shifts_or_ends(engine: LlamaCppEngine) -> None:
    """An answer that fills its context continues if it may shift, and otherwise ends with ``length``."""
    window = {"num_ctx": 64, "num_keep": 8}
    [shifted] = answer(engine, ask("Once upon a time", ignore_eos=True, context=window), limit=100)
    [cut] = answer(engine, ask("Once upon a time", ignore_eos=True, context={**window, "shift": False}), limit=100)
    assert len(shifted.tokens) == 100
    assert shifted.dropped > 50
    assert cut.dropped == 0
    assert cut.finish == "length"
    assert 50 < len(cut.tokens) < 64


def test_more_requests_than_streams_wait_in_order(weights: Path) -> None:
    """With one stream, requests are answered one after the other, in the order they came."""
    engine = make(weights, num_parallel=1)
    order: list[int] = []
    for request_id in range(3):
        engine.add_request(request_id, ask(f"Number {request_id} is"), None)
    counts = [0, 0, 0]
    while engine.has_unfinished_requests():
        for request_id, output in engine.step():
            if isinstance(output, Prefilled):
                order.append(request_id)
            elif isinstance(output, Token):
                counts[request_id] += 1
                if counts[request_id] == 3:
                    engine.abort_request(request_id)
    assert order == [0, 1, 2]
    engine.close()


def test_sliding_windows_share_prefixes_and_shift(shallow_gemma3: Path) -> None:
    """A model with sliding windows reuses prefixes longer than its window, and continues past a full context."""
    engine = make(shallow_gemma3, num_ctx=1024, num_parallel=2)
    story = OCEAN * 26
    first, second = answer(engine, ask(story + "Then"), ask(story + "But"))
    assert first.prefilled is not None
    assert first.prefilled.prompt_tokens > 512  # the window
    assert {first.cached, second.cached} == {0, first.prefilled.prompt_tokens - 1}
    [long] = answer(engine, ask("Once upon a time", ignore_eos=True, context={"num_ctx": 32}), limit=40)
    assert len(long.tokens) == 40
    assert engine.info.details["streams"] == "2 x 1024 tokens"  # from the start, since its states leave out cells
    engine.close()


@pytest.mark.parametrize("num_thread", [0, 1, 2, 512])
def test_threads_are_told_as_they_are(num_thread: int, shallow: Callable[[str], Path]) -> None:
    """The details have the most threads that compute: what was asked for, and no more than the processors."""
    engine = make(shallow("Q4_1"), num_thread=num_thread)
    most = most_threads(num_thread)
    assert most <= (os.cpu_count() or 1)
    assert engine.info.details["threads"] == ("1" if most == 1 else f"up to {most}")
    engine.close()


def test_a_copied_prefix_within_a_sliding_window(shallow_gemma3: Path) -> None:
    """A prompt that shares its beginning with a longer one, which is still being answered or is kept in host memory,
    has the same first tokens as on its own: saved states lack cells that have left the window."""
    story = OCEAN * 24
    longer, shorter = ask(story + OCEAN * 8), ask(story + "But then", logprobs=1)
    engine = make(shallow_gemma3, num_ctx=1024, num_parallel=2, max_prefill_tokens=512)
    [alone] = answer(engine, shorter, limit=3)
    engine.close()
    expected = [one.logprob.logprob for one in alone.tokens if one.logprob is not None]
    engine = make(shallow_gemma3, num_ctx=1024, num_parallel=2, max_prefill_tokens=512)
    _, beside = answer(engine, longer, shorter, limit=3)
    answer(engine, *[ask("Once upon a time")] * 2, limit=2)  # takes both streams
    [later] = answer(engine, shorter, limit=3)
    for found in (beside, later):
        numbers = [one.logprob.logprob for one in found.tokens if one.logprob is not None]
        assert numbers == pytest.approx(expected, abs=0.02)
    engine.close()


# ── Exactness ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F16"])
def test_a_text_depends_on_nothing_else(kind: str, shallow: Callable[[str], Path]) -> None:
    """The same request gives the same text and, to the last bit, the same log-probabilities alone, amid traffic, on a
    cached prefix, beside cancelled and shifting neighbours, after a late join, and while the thread count moves."""
    weights = shallow(kind)
    engine = make(weights, num_thread=0)
    assert "exact" in engine.info.features, engine.info.details["exact"]
    dice = random.Random(7)
    beginnings = (OCEAN * 2, "Tell me about", "A captain remembers", "On the map is")
    requests = [
        ask(f"{beginnings[index % 4]} harbour {index}", temperature=index % 3 / 2, seed=index, logprobs=1)
        for index in range(8)
    ]
    alone = []
    for four in (requests[:4], requests[4:]):
        fresh = make(weights, num_thread=0)
        for request in four:  # no two of which begin alike
            [one] = answer(fresh, request, limit=10)
            assert one.cached == 0
            alone.append(one.numbers)
        fresh.close()
    assert amid_traffic(engine, requests, dice) == alone
    assert amid_traffic(engine, requests, dice) == alone  # now on cached prefixes
    engine.close()


def amid_traffic(
    engine: LlamaCppEngine, requests: Sequence[CompletionRequest], dice: random.Random
) -> list[list[tuple[int | None, float]]]:
    """The numbers of requests that join at odd moments while others come, shift, and are cancelled."""
    answers = {index: Answer() for index in range(len(requests))}
    waiting, live, noise = list(answers), set[int](), 100
    noisy: set[int] = set()
    shifting = ask("and then " * 18, ignore_eos=True, context={"num_ctx": 48})
    engine.add_request(99, shifting, None)
    room = 48
    while waiting or live:
        if waiting and len(live) < 3 and dice.random() < 0.3:
            joining = waiting.pop(dice.randrange(len(waiting)))
            engine.add_request(joining, requests[joining], None)
            live.add(joining)
        if not noisy and dice.random() < 0.2:
            noise += 1
            noisy.add(noise)
            window = {"num_ctx": dice.choice([48, 512])}
            text = OCEAN[: dice.randrange(4, 90)] + "and then " * dice.randrange(1, 10)
            engine.add_request(noise, ask(text, ignore_eos=True, context=window), None)
        elif noisy and dice.random() < 0.05:
            engine.abort_request(noisy.pop())
        if dice.random() < 0.1:
            assert engine._completions is not None
            engine._completions._context.set_threads(dice.choice([1, 2]))
        for request_id, output in engine.step():
            if request_id in live:
                mine = answers[request_id]
                mine.take(output)
                if mine.finish or len(mine.tokens) == 10:
                    engine.abort_request(request_id)
                    live.discard(request_id)
            elif isinstance(output, EngineFinished):
                noisy.discard(request_id)
            elif request_id == 99:
                room -= output.prompt_tokens if isinstance(output, Prefilled) else 1
    for request_id in (99, *noisy):
        engine.abort_request(request_id)
    assert room < 0, "the neighbour has not shifted"
    return [one.numbers for one in answers.values()]


def test_weights_that_cannot_be_exact_say_so(requantized: Callable[[str], Path]) -> None:
    """K-quants do not promise exact texts, and say why; with `exact` off, no model does."""
    engine = make(requantized("Q4_K_M"))
    assert "exact" not in engine.info.features
    assert engine.info.details["exact"].startswith("no: ")
    assert answer(engine, ask("The capital of France is"))[0].text
    engine.close()


def test_without_exactness_generated_tokens_are_reused(smollm2: Path) -> None:
    """With `exact` off, an answer that becomes part of the next prompt is not computed again."""
    engine = make(smollm2, exact=False)
    [first] = answer(engine, ask("The capital of France is"), limit=40)
    follow_up = "The capital of France is" + first.text.decode() + " Next"
    [second] = answer(engine, ask(follow_up), limit=2)
    assert second.cached > 30
    engine.close()


# ── Embeddings ────────────────────────────────────────────────────────────────────────────────────────────────────


def embed(engine: StepEngine, *texts: str, truncate: bool = True) -> list[tuple[float, ...]]:
    engine.add_request(1, EmbedRequest(inputs=tuple((TextPart(text=text),) for text in texts), truncate=truncate), None)
    while engine.has_unfinished_requests():
        for _, output in engine.step():
            assert isinstance(output, EngineEmbedded), output
            size = output.vectors.dimensions
            rows = struct.iter_unpack(f"<{size}f", output.vectors.float32)
            return [row for row in rows]  # noqa: C416 - iter_unpack gives tuples of unknown type
    raise AssertionError("no vectors came")


def test_like_texts_have_like_vectors(sensible: LlamaCppEngine) -> None:
    """Of three sentences, the two about the same thing have the closest vectors."""

    def dot(left: Sequence[float], right: Sequence[float]) -> float:
        length = math.hypot(*left) * math.hypot(*right)
        return sum(x * y for x, y in zip(left, right, strict=True)) / length

    cat, kitten, tax = embed(sensible, "The cat sleeps.", "The kitten sleeps.", "Taxes are due in April of each year!")
    assert dot(cat, kitten) > dot(cat, tax)


def test_an_input_longer_than_a_batch_is_embedded_and_cut_at_the_context(weights: Path) -> None:
    """It is computed in pieces between other inputs, with the same vector each time; beyond the context it is
    truncated."""
    engine = make(weights, num_ctx=64, num_batch=16, num_parallel=1)
    assert len(engine.tokenizer.encode([(TextPart(text=OCEAN * 2),)])[0]) > 2 * 16
    first, whole, last, again = embed(engine, "first", OCEAN * 2, "last", OCEAN * 2)
    assert [first, last] == embed(engine, "first", "last")
    assert whole == again
    assert math.isfinite(math.hypot(*whole))
    assert whole not in (first, last)
    assert embed(engine, OCEAN * 4) == embed(engine, OCEAN * 5)
    engine.close()


def test_many_inputs_keep_their_order(engine: LlamaCppEngine) -> None:
    """The vectors of many inputs are in order, and each is the same as for its input alone."""
    texts = [f"Sentence number {index} is about {'cats' if index % 2 else 'ships'}." for index in range(10)]
    together = embed(engine, *texts)
    for index in (0, 5, 9):
        [alone] = embed(engine, texts[index])
        assert together[index] == alone


def test_one_text_does_not_wait_for_a_list(engine: LlamaCppEngine) -> None:
    """A text that arrives while a long list is embedded has its vector within two steps, and the list is finished
    later."""
    texts = [f"Sentence number {index} is about ships." for index in range(16)]
    engine.add_request(1, EmbedRequest(inputs=tuple((TextPart(text=text),) for text in texts)), None)
    assert engine.step() == []
    engine.add_request(2, EmbedRequest(inputs=((TextPart(text="one text"),),)), None)
    assert [request_id for _ in range(2) for request_id, _ in engine.step()] == [2]
    later: list[int] = []
    while engine.has_unfinished_requests():
        later += [request_id for request_id, _ in engine.step()]
    assert later == [1]


# ── What goes wrong ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    """A GGUF of an architecture that llama.cpp does not know is refused with that name."""
    path = tmp_path / "strange.gguf"
    path.write_bytes(gguf_bytes({"general.architecture": "quantum-llama"}))
    with pytest.raises(InvalidModelFile, match="quantum-llama"):
        make(path)


def test_the_architectures_are_those_of_the_library() -> None:
    """Each architecture that the spec lists is known to the installed library."""
    package = importlib.util.find_spec("llama_cpp")
    assert package is not None
    assert package.origin is not None
    library = min(Path(package.origin).parent.glob("lib/*llama.[ds]*"))
    known = library.read_bytes()
    assert [name for name in sorted(ARCHITECTURES) if f"{name}\0".encode() not in known] == []


def test_a_truncated_file_is_refused(tmp_path: Path, smollm2: Path) -> None:
    """Half a model file is an error with a reason, not a crash."""
    path = tmp_path / "half.gguf"
    with smollm2.open("rb") as whole:
        path.write_bytes(whole.read(40_000_000))
    with pytest.raises((InvalidModelFile, LoadFailed), match=r"llama\.cpp"):
        make(path)


def test_ids_outside_the_vocabulary_are_refused(engine: LlamaCppEngine) -> None:
    """A token id that the model does not have is an error with that id, and does not end the process."""
    for token_id in (-5, 10**7):
        with pytest.raises(InvalidRequest, match=str(token_id)):
            engine.tokenizer.decode([token_id])
        with pytest.raises(InvalidRequest, match=str(token_id)):
            engine.add_request(1, CompletionRequest(prompt=(TokensPart(ids=(token_id,)),)), None)


def test_absurd_numbers_do_no_harm(engine: LlamaCppEngine) -> None:
    """Looking back beyond the text, or requesting more alternatives than tokens, gives everything available."""
    huge = 2**31 - 1
    request = ask(
        OCEAN, logprobs=60_000, repeat_last_n=huge, repeat_penalty=1.2, dry_multiplier=0.5, dry_penalty_last_n=huge
    )
    [said] = answer(engine, request, limit=2)
    assert said.tokens[0].logprob is not None
    assert len(said.tokens[0].logprob.top) == 49_152


@pytest.mark.parametrize("options", [{"num_batch": 1, "num_parallel": 1}, {"num_batch": 10**6, "num_ctx": 1}])
def test_options_out_of_range_are_brought_into_it(weights: Path, options: Mapping[str, Any]) -> None:
    """Batch and context sizes that would make llama.cpp abort are adjusted to what it can do."""
    engine = make(weights, **options)
    assert answer(engine, ask("The"), limit=2)[0].tokens
    engine.close()


def test_a_closed_engine_tokenizes_no_more(weights: Path) -> None:
    """After closing, the tokenizer says so instead of reading freed memory."""
    engine = make(weights)
    engine.close()
    with pytest.raises(EngineDied):
        engine.tokenizer.encode([(TextPart(text="late"),)])


def test_the_memory_that_is_reported_counts_attention(weights: Path) -> None:
    """The memory in `ps` grows with the cells: by the attention scores of nine heads per token of a batch."""
    reported = []
    for num_ctx in (2048, 4096):
        engine = make(weights, num_ctx=num_ctx, num_parallel=1)
        answer(engine, ask("and then " * (num_ctx // 3)), limit=1)
        reported.append(engine.info.memory_bytes["cpu"])
        engine.close()
    assert reported[0] > weights.stat().st_size + 512 * 4 * 9 * 2048
    assert reported[1] - reported[0] > 512 * 4 * 9 * (4096 - 2048)


def test_a_quantized_cache_turns_flash_attention_on(smollm2: Path) -> None:
    """Nothing else computes with it."""
    engine = make(smollm2, kv_cache_type="q8_0")
    assert answer(engine, ask("The capital of France is"))[0].text.startswith(b" Paris")
    engine.close()


# ── Prefixes ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_common_prefix_is_the_longest() -> None:
    """The length of the common prefix is exact, however long the lists are and wherever they differ."""
    dice = random.Random(5)
    for _ in range(300):
        left = [dice.randrange(3) for _ in range(dice.randrange(1, 500))]
        right = left[: dice.randrange(len(left) + 1)] + [7] * dice.randrange(3)
        limit = dice.randrange(600)
        expected = 0
        while expected < min(len(left), len(right), limit) and left[expected] == right[expected]:
            expected += 1
        assert common_prefix(left, right, limit) == expected


def _cpu_has(flag: str) -> bool:
    information = Path("/proc/cpuinfo")
    return information.exists() and f" {flag}" in information.read_text(errors="replace")


_AFTER_ANOTHER_LIBRARY = """
import sys
import onnxruntime
from corral.adapters.engines.llama_cpp.no_amx import avoid_amx
from corral.core.errors import LoadFailed
try:
    avoid_amx()
except LoadFailed as error:
    print(error.remedy)
"""


@pytest.mark.skipif(not _cpu_has("amx_tile"), reason="needs a CPU with AMX")
def test_amx_that_is_on_already_is_refused() -> None:
    """If another library in the process has enabled AMX, loading raises an error instead of crashing the process."""
    script = [sys.executable, "-c", _AFTER_ANOTHER_LIBRARY]
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert "runner = process" in done.stdout
