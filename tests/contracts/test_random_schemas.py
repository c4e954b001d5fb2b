"""Random JSON Schemas with real weights, at temperature 1: what ends by itself fits, and nearly everything ends.

CORRAL_RANDOM_SCHEMAS sets how many are tried; with it, answers may be as long as 1,024 tokens.
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

COUNT = int(os.environ.get("CORRAL_RANDOM_SCHEMAS", "8"))
MOST_TOKENS = 1024 if COUNT > 8 else 320
AT_ONCE = 8
QUESTION = "<|im_start|>user\nAnswer with a short JSON value.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[StepEngine]:
    spec = import_name("corral.adapters.engines.llama_cpp.spec:SPEC")
    files = (LocalFile(role="weights", path=str(smollm2)),)
    options = {"num_ctx": MOST_TOKENS + 64, "num_parallel": AT_ONCE}
    loaded = import_name(spec.load)(LoadRequest(model="smol", files=files, load_options=options), lambda share: None)
    yield loaded
    loaded.close()


def test_answers_fit_random_schemas(engine: StepEngine) -> None:
    """An independent validator agrees with every answer that ended by itself: at least 95 of 100 do."""
    masks, loop = RequestMasks(engine), StepLoop(engine)
    schemas = [json.dumps(random_schema(seed)) for seed in range(COUNT)]
    texts, waiting, running, unfinished = [""] * COUNT, list(range(COUNT)), set[int](), 0
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
            unfinished += item.reason == "length"
            if item.reason == "stop":
                check = SchemaChecker().check(schemas[seed], texts[seed])
                assert check.valid, (seed, check.problem, schemas[seed], texts[seed])
    assert unfinished <= COUNT // 20
