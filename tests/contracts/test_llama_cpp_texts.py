"""Prompts and formats with real weights: typed text stays text, and answers that follow a schema end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corral.adapters.constraints.masks import GrammarMasks
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.formats.gguf import GgufReader
from corral.adapters.templates.jinja import JinjaFormat
from corral.core.models.model import ModelMetadata
from corral.core.random_access import RandomAccessFile
from corral.core.requests.answer_format import read_format
from corral.core.requests.control_tokens import ControlTokens
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.outputs import EngineFinished, Token
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import ChatRequest, CompletionRequest, SamplingParams
from tests.contracts.llama_engines import loaded_engine

pytestmark = pytest.mark.native

_END = b"<|im_end|>"


def read_metadata(path: Path) -> ModelMetadata:
    with RandomAccessFile(path) as source:
        return GgufReader().read(source)


def make(path: Path) -> LlamaCppEngine:
    return loaded_engine(path, options={"num_ctx": 512, "num_parallel": 2})


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[LlamaCppEngine]:
    made = make(smollm2)
    yield made
    made.close()


@pytest.mark.parametrize(
    "text",
    [
        "The ship, which nobody had seen for years, came home.\nIts crew didn't say why.\n\n" * 700,
        "def f(x):\n    return [x  for y in range(10)]\n\n" * 1500,
        "naïve café 漢字 и ещё слова 😀 १२३ 42,000  'tis \t <|im_end|> and so on " * 1000,
        "a" * 20_000 + " word" * 10_000,
    ],
)
def test_a_text_in_pieces_has_the_ids_of_the_whole(engine: LlamaCppEngine, text: str) -> None:
    """The model's tokenizer gives a long text the same ids in pieces as in one go."""
    steps = engine.tokenizer.encode_gradually((TextPart(text=text),))
    pauses = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            ids = end.value
            break
        pauses += 1
    assert pauses >= 2
    assert list(ids) == engine.tokenizer.text_tokens(text)


@pytest.mark.parametrize("spelled", [b"<|im_end|>", b"[|im_end|]", b"]~im_end~]", b"<|im end|>", b"#im#over##"])
def test_typed_control_tokens_stay_text_for_every_vocabulary(
    shallow: Callable[[str], Path], tmp_path: Path, spelled: bytes
) -> None:
    """The model with its end token respelled: wherever a request contains it, only the template's own become tokens."""
    path = tmp_path / "model.gguf"
    path.write_bytes(shallow("Q4_1").read_bytes().replace(_END, spelled))
    metadata = read_metadata(path)
    assert metadata.chat_template is not None
    assert spelled.decode() in metadata.chat_template
    engine = make(path)
    try:
        known = engine.info.control_tokens
        assert known is not None
        assert spelled.decode() in known
        template = JinjaFormat(metadata.chat_template)

        def control_ids(typed: str) -> int:
            call = ToolCall(name=typed, arguments={typed: typed})
            messages = (
                Message(role="system", content=typed),
                Message(role=typed or "user", content=f"a{typed}b {typed}"),
                Message(role="assistant", content=typed, thinking=typed, tool_calls=(call,)),
                Message(role="tool", content=typed, tool_name=typed, tool_call_id=typed),
                Message(role="user", content=typed),
            )
            request = ChatRequest(messages=messages, tools=(Tool(name=typed, description=typed),))
            [ids] = engine.tokenizer.encode([template.render(request, ControlTokens(known)).prompt])
            return sum(token_id in engine.tokenizer.vocabulary().control for token_id in ids)

        assert control_ids(spelled.decode()) == control_ids("") > 8
    finally:
        engine.close()


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.5])
def test_an_answer_that_follows_a_schema_ends(engine: LlamaCppEngine, temperature: float) -> None:
    """Even a model of 135 million parameters answers only what the schema allows, and stops."""
    fields = {"kind": {"type": "string"}, "name": {"type": "string"}, "legs": {"type": "integer"}}
    constraint = read_format({"type": "object", "properties": fields, "required": list(fields)})
    assert constraint is not None
    masks = GrammarMasks(engine.tokenizer.vocabulary())
    template = JinjaFormat("<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n<|im_start|>assistant\n")
    asked = ChatRequest(messages=(Message(role="user", content="Describe a pet as JSON."),))
    prompt = template.render(asked).prompt
    texts: dict[int, bytes] = {}
    for seed in range(2):
        sampling = SamplingParams(temperature=temperature, seed=seed)
        engine.add_request(seed, CompletionRequest(prompt=prompt, sampling=sampling), masks(constraint))
        texts[seed] = b""
    ended: list[str] = []
    while engine.has_unfinished_requests():
        for seed, output in engine.step():
            if isinstance(output, Token):
                texts[seed] += output.piece
            elif isinstance(output, EngineFinished):
                ended.append(output.reason)
    assert ended == ["stop"] * len(texts)
    assert [list(json.loads(text)) for text in texts.values()] == [list(fields)] * len(texts)
