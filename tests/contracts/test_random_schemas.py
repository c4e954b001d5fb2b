"""Random JSON Schemas with real weights, at temperature 1: what ends by itself fits, and nearly everything ends.

CORRAL_RANDOM_SCHEMAS sets how many are tried, on each engine that chooses tokens here; with it, answers may be as long
as 1,024 tokens. Without, one engine tries a few: the masks are the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.adapters.constraints.schema_checks import SchemaChecker
from corral.adapters.runners.request_masks import RequestMasks
from corral.core.errors import ErrorInfo
from corral.core.ports.engines import StepEngine
from corral.core.requests.outputs import Delta, Finished
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, Constraint, SamplingParams
from corral.core.specs.engines import LoadRequest, LocalFile
from corral.core.specs.imports import import_name
from corral.core.stepping.loops import StepLoop
from tests.contracts.random_schemas import random_schema

pytestmark = pytest.mark.native

COUNT = int(os.environ.get("CORRAL_RANDOM_SCHEMAS", "0"))
MOST_TOKENS = 1024 if COUNT else 320
AT_ONCE = 8
ENGINES = ("llama_cpp", "onnx_genai") if COUNT else ("llama_cpp",)
SEEDS = range(COUNT or 8)
QUESTION = "<|im_start|>user\nAnswer with a short JSON value.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[StepEngine]:
    weights: Path = request.getfixturevalue("shallow")("Q4_1")
    files = [
        LocalFile(
            role="weights" if path == weights or "model.onnx" in path.name else "config",
            path=str(path),
            name=path.name,
        )
        for path in (sorted(weights.iterdir()) if weights.is_dir() else [weights])
    ]
    spec = import_name(f"corral.adapters.engines.{request.param}.spec:SPEC")
    options = {"num_ctx": MOST_TOKENS + 64, "num_parallel": AT_ONCE}
    asked = LoadRequest(model="smol", files=tuple(files), load_options=options)
    loaded = import_name(spec.load)(asked, lambda share: None)
    yield loaded
    loaded.close()


def test_answers_fit_random_schemas(engine: StepEngine) -> None:
    """An independent validator agrees with every answer that ended by itself: at least 95 of 100 do."""
    masks, loop = RequestMasks(engine), StepLoop(engine)
    schemas = {seed: json.dumps(random_schema(seed)) for seed in SEEDS}
    texts, waiting, running = dict.fromkeys(SEEDS, ""), list(SEEDS), set[int]()
    unfinished, wrong = [], []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            seed = waiting.pop(0)
            request = CompletionRequest(
                prompt=(TextPart(text=QUESTION, parse_special=True),),
                sampling=SamplingParams(temperature=1.0, seed=seed, num_predict=MOST_TOKENS),
                constraint=Constraint(kind="json_schema", source=schemas[seed]),
            )
            loop.add(seed, request, masks.mask(request))
            running.add(seed)
        for seed, item in loop.step():
            assert not isinstance(item, ErrorInfo), (seed, item)
            if isinstance(item, Delta):
                texts[seed] += item.text
            if not isinstance(item, Finished):
                continue
            running.remove(seed)
            if item.reason == "length":
                unfinished.append((seed, schemas[seed], texts[seed]))
                continue
            check = SchemaChecker().check(schemas[seed], texts[seed])
            if not check.valid:
                wrong.append((seed, check.problem, schemas[seed], texts[seed]))
    assert not wrong
    assert len(unfinished) <= len(SEEDS) // 20, unfinished


def test_a_limit_changes_only_answers_that_are_longer(engine: StepEngine) -> None:
    """From the length of the answer on, it is the same, token for token; below, it is whole JSON, and this is told."""
    masks, loop = RequestMasks(engine), StepLoop(engine)
    names = {"type": "string", "maxLength": 16}
    schema = json.dumps({"type": "object", "properties": {"city": names, "land": names}, "required": ["city", "land"]})

    def answer(num_predict: int) -> tuple[str, Finished]:
        request = CompletionRequest(
            prompt=(TextPart(text=QUESTION, parse_special=True),),
            sampling=SamplingParams(temperature=0.0, num_predict=num_predict),
            constraint=Constraint(kind="json_schema", source=schema),
            return_token_ids=True,
        )
        loop.add(0, request, masks.mask(request))
        text = ""
        while True:
            for _, item in loop.step():
                text += item.text if isinstance(item, Delta) else ""
                assert not isinstance(item, ErrorInfo), item
                if isinstance(item, Finished):
                    return text, item

    whole, free = answer(MOST_TOKENS)
    count = free.usage.generated_tokens
    assert free.warnings == ()
    for limit in (count, count + 1, count + 30):
        text, finished = answer(limit)
        assert (text, finished.token_ids, finished.reason) == (whole, free.token_ids, "stop")
    for limit in (count - 1, count - 4):
        text, finished = answer(limit)
        assert set(json.loads(text)) == {"city", "land"}
        assert finished.reason == "stop"
        assert finished.usage.generated_tokens <= limit
        assert text == whole or "cut short" in finished.warnings[0]
