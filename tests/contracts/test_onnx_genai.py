"""The ONNX Runtime GenAI engine: its port's contract with real weights, options, chunks, adapters, broken folders."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.adapters.engines.onnx_genai.loader import devices, load
from corral.adapters.engines.onnx_genai.spec import SPEC, OnnxGenaiOptions
from corral.adapters.engines.onnx_genai.tokenizer import FolderTokenizer
from corral.core.errors import CorralError, InvalidModelFile, InvalidOption, InvalidRequest, LoadFailed, Unsupported
from corral.core.models.digests import digest_of
from corral.core.models.model import FileRole, ModelFile, StoredModel
from corral.core.models.names import parse_name
from corral.core.ports.engines import StepEngine
from corral.core.requests.caller import ANONYMOUS, Caller
from corral.core.requests.outputs import EngineFinished, EngineOutput, Prefilled, Token
from corral.core.requests.principal import Principal
from corral.core.requests.prompts import TextPart, TokensPart
from corral.core.requests.requests import CompletionRequest, ContextPolicy, EmbedRequest, SamplingParams
from corral.core.scheduling.load_options import typed_load_options
from corral.core.specs.engines import LoadRequest, LocalFile
from corral.plugins.testing import StepEngineContract

pytestmark = pytest.mark.native

BOS, EOS, EXTRA, LOGITS = 256, 257, 258, 300
"""The tiny model's vocabulary: 256 single-byte tokens, two control tokens, an added word, then padding."""


def load_request(folder: Path, **options: object) -> LoadRequest:
    def role(name: str) -> FileRole:
        return "adapter" if name.endswith(".onnx_adapter") else "weights" if "model.onnx" in name else "config"

    files = tuple(LocalFile(role=role(path.name), path=str(path), name=path.name) for path in sorted(folder.iterdir()))
    return LoadRequest(model="test", files=files, load_options={"num_ctx": 256, "num_parallel": 3, **options})


def make(folder: Path, **options: object) -> StepEngine:
    return load(load_request(folder, **options), lambda share: None)


def ask(text: str, *, special: bool = True, context: ContextPolicy | None = None, **sampling: Any) -> CompletionRequest:
    params = SamplingParams(**{"temperature": 0.0, **sampling})
    prompt = (TextPart(text=text, parse_special=special),)
    return CompletionRequest(prompt=prompt, sampling=params, context=context or ContextPolicy())


def answer(engine: StepEngine, *requests: CompletionRequest, limit: int = 24) -> list[list[EngineOutput]]:
    """Run requests together; each is aborted after `limit` tokens, as a driver would."""
    outputs: list[list[EngineOutput]] = [[] for _ in requests]
    for request_id, request in enumerate(requests):
        engine.add_request(request_id, request, None)
    while engine.has_unfinished_requests():
        for request_id, output in engine.step():
            outputs[request_id].append(output)
            if len(ids(outputs[request_id])) == limit:
                engine.abort_request(request_id)
    return outputs


def ids(outputs: list[EngineOutput]) -> list[int | None]:
    return [output.token_id for output in outputs if isinstance(output, Token)]


def text(outputs: list[EngineOutput]) -> bytes:
    return b"".join(output.piece for output in outputs if isinstance(output, Token))


def prefilled(outputs: list[EngineOutput]) -> Prefilled:
    assert isinstance(outputs[0], Prefilled)
    return outputs[0]


# ── A tiny model ──────────────────────────────────────────────────────────────────────────────────────────────────


def _graph(*, lora: bool) -> Any:
    """Random weights; each token's logits depend on all before it, through sums kept in the KV cache."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    heads, size, rank = 2, 8, 2
    width = heads * size
    random = np.random.default_rng(0)

    def constant(name: str, value: Any) -> Any:
        return numpy_helper.from_array(np.asarray(value), name)

    def cache(name: str, length: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", heads, length, size])

    def tokens(name: str, length: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", length])

    node = helper.make_node
    nodes = [
        node("Gather", ["embed", "input_ids"], ["rows"]),
        node("Reshape", ["rows", "split"], ["by_head"]),
        node("Transpose", ["by_head"], ["new"], perm=[0, 2, 1, 3]),
        node("Concat", ["past_key_values.0.key", "new"], ["present.0.key"], axis=2),
        node("Concat", ["past_key_values.0.value", "new"], ["present.0.value"], axis=2),
        node("ReduceSum", ["past_key_values.0.key", "length_axes"], ["before"], keepdims=1),
        node("CumSum", ["new", "length_axis"], ["since"]),
        node("Add", ["before", "since"], ["sum"]),
        node("Transpose", ["sum"], ["sum_by_token"], perm=[0, 2, 1, 3]),
        node("Reshape", ["sum_by_token", "merge"], ["merged"]),
        node("Sin", ["merged"], ["state"]),
        node("MatMul", ["state", "head"], ["plain" if lora else "logits"]),
    ]
    constants = [
        constant("embed", random.normal(0, 1, (LOGITS, width)).astype(np.float32)),
        constant("head", random.normal(0, 0.7, (width, LOGITS)).astype(np.float32)),
        constant("split", np.array([0, 0, heads, size])),
        constant("merge", np.array([0, 0, -1])),
        constant("length_axes", np.array([2])),
        constant("length_axis", np.array(2)),
    ]
    inputs = [
        tokens("input_ids", "length"),
        tokens("attention_mask", "total"),
        cache("past_key_values.0.key", "past"),
        cache("past_key_values.0.value", "past"),
    ]
    if lora:
        for name, shape in (("lora.A", (width, rank)), ("lora.B", (rank, LOGITS))):
            constants.append(constant(name, np.zeros(shape, np.float32)))
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        nodes += [
            node("MatMul", ["state", "lora.A"], ["low"]),
            node("MatMul", ["low", "lora.B"], ["change"]),
            node("Add", ["plain", "change"], ["logits"]),
        ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", LOGITS])
    outputs = [logits, cache("present.0.key", "total"), cache("present.0.value", "total")]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _config() -> dict[str, Any]:
    decoder = {
        "session_options": {"provider_options": []},
        "filename": "model.onnx",
        "head_size": 8,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {"type": "llama", "bos_token_id": BOS, "eos_token_id": [EOS], "pad_token_id": EOS, "context_length": 1024}
    return {
        "model": {**model, "vocab_size": LOGITS, "decoder": decoder},
        "search": {"max_length": 1024, "past_present_share_buffer": False},
    }


def _tokenizer(*, begins: bool) -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<begin>", "<end>"])
    tokenizer.add_tokens([AddedToken("<word é>", normalized=False)])
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<begin> $A", pair="<begin> $A $B", special_tokens=[("<begin>", BOS)]
        )
    return str(tokenizer.to_str())


def write_tiny(folder: Path, *, lora: bool = False, begins: bool = True) -> Path:
    onnx = pytest.importorskip("onnx")
    folder.mkdir(exist_ok=True)
    onnx.save(_graph(lora=lora), folder / "model.onnx")
    (folder / "genai_config.json").write_text(json.dumps(_config()))
    (folder / "tokenizer.json").write_text(_tokenizer(begins=begins))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model that answers at once, and nothing sensible."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[StepEngine]:
    """One engine for all tests that leave it unchanged."""
    engine = make(tiny, max_prefill_tokens=16)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def smollm2_engine(smollm2_onnx: Path) -> Iterator[StepEngine]:
    engine = make(smollm2_onnx, num_ctx=512)
    yield engine
    engine.close()


# ── The contract ──────────────────────────────────────────────────────────────────────────────────────────────────


class TestTiny(StepEngineContract):
    """A tiny model passes the suite of the port."""

    @pytest.fixture
    def engine(self, tiny: Path) -> StepEngine:
        return make(tiny)

    @pytest.fixture
    def vocabulary_size(self) -> int:
        return EXTRA + 1


class TestSmolLM2(StepEngineContract):
    """Real weights pass the suite of the port."""

    @pytest.fixture
    def engine(self, shallow_onnx: Path) -> StepEngine:
        return make(shallow_onnx)

    @pytest.fixture
    def vocabulary_size(self) -> int:
        return 49_152


# ── Words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_knows_the_capital_of_france(smollm2_engine: StepEngine) -> None:
    """A plain completion of real weights makes sense."""
    assert text(answer(smollm2_engine, ask("The capital of France is"))[0]).startswith(b" Paris")


def test_a_chat_ends_by_itself(smollm2_engine: StepEngine) -> None:
    """A chat's answer ends with an end token, which has no text."""
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    [outputs] = answer(smollm2_engine, ask(prompt), limit=100)
    assert b"Paris" in text(outputs)
    assert b"<|" not in text(outputs)
    assert outputs[-1] == EngineFinished(reason="stop")


def test_a_later_turn_takes_over_the_earlier_one(smollm2_engine: StepEngine) -> None:
    """A prompt that begins like an earlier one is computed from where they differ, with the same answer as from
    scratch."""
    first = "The ocean is wide and deep, and ships have crossed it for thousands of years to trade. " * 5
    answer(smollm2_engine, ask(first), limit=4)
    [again] = answer(smollm2_engine, ask(first + "The ships"))
    assert prefilled(again).cached_tokens >= 64
    for other in ("One", "Two", "Three"):  # as many as there are: nothing of the first is left
        answer(smollm2_engine, ask(other * 40), limit=1)
    [afresh] = answer(smollm2_engine, ask(first + "The ships"))
    assert prefilled(afresh).cached_tokens == 0
    assert ids(again) == ids(afresh)


# ── Prompts in pieces ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_long_prompt_does_not_stop_others(engine: StepEngine) -> None:
    """While an answer is being generated, a step computes one piece of a long prompt, and one token of the answer."""
    engine.add_request(1, ask("a", ignore_eos=True), None)
    while not any(isinstance(output, Token) for _, output in engine.step()):
        pass
    engine.add_request(2, ask("b" * 100), None)
    steps = 0
    while True:
        outputs = engine.step()
        steps += 1
        assert [type(output) for request_id, output in outputs if request_id == 1] == [Token]
        if any(request_id == 2 for request_id, _ in outputs):
            break
    assert steps == math.ceil(101 / 16)
    engine.abort_request(1)
    engine.abort_request(2)


def test_an_abort_takes_effect_at_once(engine: StepEngine) -> None:
    """A request that is aborted while waiting, in its prompt or generating has no more output and frees its place."""
    for request_id in range(5):
        engine.add_request(request_id, ask("b" * 60, ignore_eos=True), None)
    engine.step()
    for request_id in (4, 0, 1):
        engine.abort_request(request_id)
    seen = {request_id for _ in range(10) for request_id, _ in engine.step()}
    assert seen == {2, 3}
    for request_id in (2, 3, 99):
        engine.abort_request(request_id)
    assert not engine.has_unfinished_requests()
    assert list(engine.step()) == []


def test_prefixes_are_taken_over_in_whole_pieces(tiny: Path) -> None:
    """A prompt reuses whole chunks of an earlier one with the same beginning, but never its own last token."""
    engine = make(tiny, max_prefill_tokens=16)
    try:
        for request, cached in (
            (ask("x" * 40), 0),
            (ask("x" * 40), 32),
            (ask("x" * 31), 16),
            (ask("x" * 20 + "y" * 60), 16),
            (ask("x" * 20 + "y" * 59 + "z"), 80),
        ):
            [outputs] = answer(engine, request, limit=2)
            assert prefilled(outputs).cached_tokens == cached
        private = Caller(principal=Principal(name="ann", shares_prefixes=False))
        for caller, cached in ((private, 0), (private, 32), (ANONYMOUS, 32)):
            request = msgspec.structs.replace(ask("v" * 40), caller=caller)
            if caller is ANONYMOUS:
                answer(engine, request, limit=2)
            [outputs] = answer(engine, request, limit=2)
            assert prefilled(outputs).cached_tokens == cached
    finally:
        engine.close()


def test_together_as_alone(engine: StepEngine) -> None:
    """Greedy and seeded texts are the same alone, among others, and after others."""
    requests = [ask("word " * count, seed=count, temperature=count % 2, ignore_eos=True) for count in (3, 9, 14, 20)]
    alone = [ids(answer(engine, request)[0]) for request in requests]
    assert [ids(outputs) for outputs in answer(engine, *requests)] == alone
    assert [ids(outputs) for outputs in answer(engine, *reversed(requests))] == alone[::-1]


# ── Limits ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_context_ends_the_answer(engine: StepEngine) -> None:
    """Prompt and answer together fill `num_ctx`, then the answer ends with ``length``: this engine cannot shift."""
    [outputs] = answer(engine, ask("abc", ignore_eos=True, context=ContextPolicy(num_ctx=20)), limit=100)
    assert outputs[-1] == EngineFinished(reason="length")
    assert prefilled(outputs).prompt_tokens + len(ids(outputs)) == 21  # the last is said, not computed
    assert "shift" not in engine.info.features


def test_an_embedding_request_is_refused(engine: StepEngine) -> None:
    """It generates text only."""
    with pytest.raises(Unsupported, match="EmbedRequest"):
        engine.add_request(1, EmbedRequest(inputs=()), None)


def test_ids_outside_the_vocabulary(engine: StepEngine) -> None:
    """Padding ids and other invalid ids are refused, and nothing breaks."""
    for token_id in (LOGITS - 1, -1, 10**9):
        with pytest.raises(InvalidRequest, match=str(token_id)):
            engine.add_request(1, CompletionRequest(prompt=(TokensPart(ids=(token_id,)),)), None)


# ── Options ───────────────────────────────────────────────────────────────────────────────────────────────────────


OPTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.1},
    {"top_k": 3},
    {"top_p": 0.2},
    {"min_p": 0.5},
    {"typical_p": 0.1},
    {"top_n_sigma": 0.5},
    {"repeat_penalty": 3.0},
    {"repeat_penalty": 3.0, "repeat_last_n": 1},
    {"presence_penalty": 5.0},
    {"frequency_penalty": 5.0},
    {"seed": 2},
    {"logit_bias": ((65, 50.0),)},
    {"logit_bias": (("A", 50.0),)},
    {"dynatemp_range": 0.9},
    {"dynatemp_range": 0.9, "dynatemp_exponent": 4.0},
    {"dry_multiplier": 50.0, "dry_allowed_length": 0},
    {"xtc_probability": 1.0, "xtc_threshold": 0.02},
    {"mirostat": 1, "mirostat_tau": 1.0},
    {"mirostat": 2, "mirostat_tau": 1.0},
    {"mirostat": 2, "mirostat_tau": 1.0, "mirostat_eta": 1.0},
)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options))
def test_options_reach_the_engine(engine: StepEngine, options: dict[str, Any]) -> None:
    """Each sampling option changes the text of a seed, and none is reported as ignored."""
    base: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 1, "ignore_eos": True}
    [plain] = answer(engine, ask("hello hello", **base), limit=40)
    [changed] = answer(engine, ask("hello hello", **{**base, **options}), limit=40)
    assert ids(plain) != ids(changed)
    assert prefilled(changed).ignored_options == ()


def test_ends(engine: StepEngine) -> None:
    """An end token ends the answer and is counted; with ``ignore_eos`` it is never generated."""
    [ended] = answer(engine, ask("a", logit_bias=((EOS, 100.0),)))
    assert ids(ended) == [EOS]
    assert ended[-1] == EngineFinished(reason="stop")
    [going_on] = answer(engine, ask("a", logit_bias=((EOS, 100.0),), ignore_eos=True))
    assert EOS not in ids(going_on)
    assert len(ids(going_on)) == 24


def test_control_tokens_have_no_text_unless_preserved(engine: StepEngine) -> None:
    """A control token within an answer is counted but not shown; a preserved one is text and ends nothing."""
    [hidden] = answer(engine, ask("a", logit_bias=((BOS, 100.0),)), limit=2)
    assert (ids(hidden), text(hidden)) == ([BOS, BOS], b"")
    request = CompletionRequest(
        prompt=(TextPart(text="a"),),
        sampling=SamplingParams(temperature=0.0, logit_bias=((EOS, 100.0),)),
        preserved_tokens=frozenset({"<end>"}),
    )
    [shown] = answer(engine, request, limit=2)
    assert text(shown) == b"<end><end>"


def test_what_is_kept_on_shifting_is_named(engine: StepEngine) -> None:
    """A full context ends the answer, so ``num_keep`` has no effect and is reported as ignored."""
    request = CompletionRequest(prompt=(TextPart(text="a"),), context=ContextPolicy(num_keep=8))
    [outputs] = answer(engine, request, limit=1)
    assert prefilled(outputs).ignored_options == ("num_keep",)


# ── The tokenizer ─────────────────────────────────────────────────────────────────────────────────────────────────


def tokenizer_of(engine: StepEngine) -> FolderTokenizer:
    assert isinstance(engine.tokenizer, FolderTokenizer)
    return engine.tokenizer


def test_control_tokens_only_where_they_are_meant(engine: StepEngine) -> None:
    """Text spelling a control token is that token in a template's own text, and plain letters in anyone else's."""
    [meant] = tokenizer_of(engine).encode([(TextPart(text="<end>", parse_special=True),)])
    [spelt] = tokenizer_of(engine).encode([(TextPart(text="<end>"),)])
    assert meant == (BOS, EOS)
    assert len(spelt) == 6
    assert EOS not in spelt
    assert tokenizer_of(engine).decode(spelt[1:]) == tokenizer_of(engine).decode(meant[1:]) == b"<end>"


def test_beginnings(tiny: Path, tmp_path: Path) -> None:
    """BOS comes first, once, if the post-processor or tokenizer_config.json says so, and otherwise not at all."""

    def first(folder: Path, text: str) -> int:
        tokenizer = FolderTokenizer(folder, size=LOGITS, ends={EOS})
        [found] = tokenizer.encode([(TextPart(text=text, parse_special=True),)])
        assert found[1:].count(BOS) == 0
        return found[0]

    assert first(tiny, "a") == first(tiny, "<begin>a") == BOS
    bare = write_tiny(tmp_path / "bare", begins=False)
    assert first(bare, "a") != BOS
    for config in (
        {"bos_token": "<begin>", "add_bos_token": True},
        {"bos_token": {"content": "<begin>"}, "add_bos_token": True},
    ):
        (bare / "tokenizer_config.json").write_text(json.dumps(config))
        assert first(bare, "a") == BOS
    (bare / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<begin>", "add_bos_token": False}))
    assert first(bare, "a") != BOS


def test_vocabulary(engine: StepEngine) -> None:
    """The vocabulary has the bytes of every token, without padding, and names the tokens that are not text."""
    vocabulary = tokenizer_of(engine).vocabulary()
    assert vocabulary is tokenizer_of(engine).vocabulary()
    assert sorted(vocabulary.pieces[:256]) == [bytes([value]) for value in range(256)]
    assert vocabulary.pieces[256:] == (b"<begin>", b"<end>", "<word é>".encode())
    assert vocabulary.control == {BOS, EOS}
    assert vocabulary.ends == {EOS}


def test_sentencepiece_vocabularies(tmp_path: Path) -> None:
    """Pieces with ``▁`` for spaces and ``<0xAB>`` for bytes become what they stand for."""
    from tokenizers import Tokenizer, decoders, models

    vocab = {"<unk>": 0, "</s>": 1, "▁": 2, "▁a": 3, "b": 4, "é": 5, "<0xE2>": 6, "<0x82>": 7, "<0xAC>": 8}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["</s>"])
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    found = FolderTokenizer(tmp_path, size=100, ends={1})
    assert found.vocabulary().pieces[2:] == (b" ", b" a", b"b", "é".encode(), b"\xe2", b"\x82", b"\xac")
    [euro] = found.encode([(TextPart(text="b€"),)])
    assert euro == (4, 6, 7, 8)
    assert found.decode(euro).decode() == "b€"


# ── LoRA ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_adapter(path: Path, seed: int, **shapes: tuple[int, int]) -> None:
    import numpy as np
    import onnxruntime

    random = np.random.default_rng(seed)
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    parameters = {
        name.replace("_", "."): onnxruntime.OrtValue.ortvalue_from_numpy(random.normal(0, 2, shape).astype(np.float32))
        for name, shape in shapes.items()
    }
    adapter.set_parameters(parameters)
    adapter.export_adapter(str(path))


def test_an_adapter_in_the_folder_is_active(tmp_path: Path) -> None:
    """A LoRA adapter in the folder changes the answers, and the info names it; another gives others."""

    def said(name: str, seed: int | None) -> list[int | None]:
        folder = write_tiny(tmp_path / name, lora=True)
        if seed is not None:
            write_adapter(folder / "style.onnx_adapter", seed, lora_A=(16, 2), lora_B=(2, LOGITS))
        engine = make(folder)
        assert engine.info.details.get("adapters") == (None if seed is None else "style.onnx_adapter")
        try:
            first, second = answer(engine, ask("hello", ignore_eos=True), ask("hello", ignore_eos=True))
            assert ids(first) == ids(second)
            return ids(first)
        finally:
            engine.close()

    texts = [said("plain", None), said("one", 1), said("two", 2), said("again", 1)]
    assert texts[1] == texts[3]
    assert len({tuple(each) for each in texts}) == 3


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    """A file that is not an adapter, or belongs to another model, is an error at load that names it."""
    folder = write_tiny(tmp_path / "tiny", lora=True)
    (folder / "style.onnx_adapter").write_bytes(b"no adapter at all")
    with pytest.raises(InvalidModelFile, match="not a LoRA adapter"):
        make(folder)
    write_adapter(folder / "style.onnx_adapter", 1, other_A=(16, 2))
    with pytest.raises(InvalidModelFile, match="failed a test computation"):
        make(folder)


def test_several_adapters_are_refused(tmp_path: Path) -> None:
    """Only the last one would be applied, and the model would silently answer without the others."""
    folder = write_tiny(tmp_path / "tiny", lora=True)
    for seed, name in enumerate(("one", "two")):
        write_adapter(folder / f"{name}.onnx_adapter", seed, lora_A=(16, 2), lora_B=(2, LOGITS))
    with pytest.raises(InvalidModelFile, match="has 2 adapters; one can be applied"):
        make(folder)


# ── Folders that do not load ──────────────────────────────────────────────────────────────────────────────────────


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / "genai_config.json"
        config = json.loads(path.read_text())
        change(config["model"])
        path.write_text(json.dumps(config))

    return apply


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "genai_config.json").unlink(), r"no genai_config\.json"),
    "config is no JSON": (lambda folder: (folder / "genai_config.json").write_text("{"), "malformed"),
    "config of something else": (lambda folder: (folder / "genai_config.json").write_text("{}"), "model"),
    "no graph": (lambda folder: (folder / "model.onnx").unlink(), "model.onnx, which is missing"),
    "empty graph": (lambda folder: (folder / "model.onnx").write_bytes(b""), "cannot load"),
    "foreign graph": (lambda folder: (folder / "model.onnx").write_bytes(b"\x07garbage" * 99), "cannot load"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
    "foreign tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("[]"), "tokenizer.json cannot be read"),
    "unknown type": (_edit(lambda model: model.update(type="perceptron")), "perceptron"),
    "speech model": (_edit(lambda model: model.update(encoder={})), "only text decoders"),
    "end outside": (_edit(lambda model: model.update(eos_token_id=10**6)), "eos_token_id"),
    "other logits": (_edit(lambda model: model.update(vocab_size=280)), "logits"),
    "no context": (_edit(lambda model: model.update(context_length=0)), "context_length"),
    "endless vocabulary": (_edit(lambda model: model.update(vocab_size=10**12)), "vocab_size from 1"),
    "no type": (_edit(lambda model: model.update(type=5)), "Expected `str`"),
    "file elsewhere": (_edit(lambda model: model["decoder"].update(filename="../x.onnx")), "not a valid path"),
    "native code": (
        _edit(lambda model: model["decoder"].update(session_options={"custom_ops_library": "evil.so"})),
        "custom_ops_library is not allowed in a model",
    ),
    "writes files": (
        _edit(lambda model: model["decoder"].update(session_options={"enable_profiling": "/tmp/x"})),
        "enable_profiling is not allowed in a model",
    ),
    "deep settings": (lambda folder: (folder / "genai_config.json").write_bytes(b"[" * 100_000), "malformed"),
    "tokenizer elsewhere": (lambda folder: (folder / "tokenizer.json").write_bytes(b"[" * 100_000), "cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders(tmp_path: Path, name: str) -> None:
    """A folder that is incomplete or inconsistent is one of our errors, which says what is wrong."""
    folder = write_tiny(tmp_path / "tiny")
    spoil, message = BROKEN[name]
    spoil(folder)
    with pytest.raises(InvalidModelFile, match=message):
        make(folder)


def test_missing_external_data(shallow_onnx: Path, tmp_path: Path) -> None:
    """Weights beside the graph that are missing or cut short are named."""
    for path in shallow_onnx.iterdir():
        if path.name != "model.onnx.data":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InvalidModelFile, match=r"model\.onnx\.data"):
        make(tmp_path)
    (tmp_path / "model.onnx.data").write_bytes(bytes(1000))
    with pytest.raises(InvalidModelFile, match="cannot load"):
        make(tmp_path)


# ── Load options ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_load_options(tiny: Path) -> None:
    """Context, parallel requests and threads are as requested, within the limits of the model."""
    engine = make(tiny, num_ctx=100_000, num_parallel=2, num_thread=1)
    assert (engine.info.context_length, engine.info.parallel) == (1024, 2)
    assert engine.info.details["threads"] == "1"
    assert "streams" in engine.info.details
    engine.close()
    engine = make(tiny, num_parallel=None, provider="cpu")
    assert engine.info.parallel in (1, 2, 4, 8)
    assert list(engine.info.memory_bytes) == ["cpu"]
    engine.close()


def test_providers(tiny: Path) -> None:
    """A provider that this build does not have is refused, with a list of those it has; they are read in any case."""
    assert devices()[0].kind == "cpu"
    with pytest.raises(InvalidOption) as caught:
        make(tiny, provider="cray")
    assert "cpu" in (caught.value.remedy or "")
    make(tiny, provider="CPU").close()


@pytest.mark.parametrize("provider", [None, "cpu", "CPU"])
def test_provider_options_need_a_provider(provider: str | None) -> None:
    """Without one, or for the CPU, they are refused before anything is loaded."""
    with pytest.raises(InvalidOption, match="onnx-genai engine: provider_options") as caught:
        typed_load_options(SPEC, {"provider": provider, "provider_options": {"device_id": "0"}})
    assert caught.value.remedy == "set provider too"


def test_a_config_that_names_a_missing_provider(tmp_path: Path) -> None:
    """A folder made for a provider that is not there fails to load, with a way out; ``provider`` overrides it."""
    if any(device.kind == "cuda" for device in devices()):
        pytest.skip("this machine has CUDA")
    folder = write_tiny(tmp_path / "tiny")
    _edit(lambda model: model["decoder"]["session_options"].update(provider_options=[{"cuda": {}}]))(folder)
    with pytest.raises(LoadFailed) as caught:
        make(folder)
    assert caught.value.remedy is not None
    assert "provider" in caught.value.remedy
    make(folder, provider="cpu").close()


def test_fits() -> None:
    """A loaded model fits requests that leave options open or ask for less; an option that changes the load does not
    fit."""
    assert SPEC.fits is not None
    loaded = OnnxGenaiOptions(num_ctx=2048, num_parallel=4)
    for wanted, fits in (
        (OnnxGenaiOptions(num_ctx=1024), True),
        (OnnxGenaiOptions(num_ctx=2048, num_parallel=2), True),
        (OnnxGenaiOptions(num_ctx=4096), False),
        (OnnxGenaiOptions(num_ctx=2048, provider="cuda"), False),
        (OnnxGenaiOptions(num_ctx=2048, num_thread=1), False),
    ):
        assert SPEC.fits(loaded, wanted) is fits


def test_match_and_estimate() -> None:
    """Folders for ONNX Runtime GenAI match, other ONNX models do not; the context adds to the estimate."""
    name = parse_name("tiny")

    def record(path: str, size: int = 1_000_000) -> StoredModel:
        files = [("weights", "model.onnx", size), ("config", path, 10)]
        return StoredModel(
            name=name,
            digest=digest_of(b""),
            size_bytes=size,
            modified_at=0.0,
            format="onnx",
            files=tuple(
                ModelFile(role=role, media_type="", digest=digest_of(b""), size_bytes=size, path=path)  # type: ignore[arg-type]
                for role, path, size in files
            ),
        )

    assert SPEC.match(record("genai_config.json"), None, OnnxGenaiOptions()).score == 100
    assert SPEC.match(record("config.json"), None, OnnxGenaiOptions()).score == 0
    small = SPEC.estimate(record("genai_config.json"), None, OnnxGenaiOptions(num_ctx=128))
    large = SPEC.estimate(record("genai_config.json"), None, OnnxGenaiOptions(num_ctx=4096, num_parallel=2))
    assert 1_000_000 <= small["cpu"] < large["cpu"]


def test_errors_are_ours(tmp_path: Path) -> None:
    """A load request without a folder is refused like any other wrong file."""
    with pytest.raises(CorralError):
        load(
            LoadRequest(model="none", files=(LocalFile(role="weights", path=str(tmp_path / "x.onnx")),)),
            lambda share: None,
        )
