"""Constraints with real weights: every engine with logits makes SmolLM2 follow a schema, next to unconstrained
requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from corral.adapters.constraints.masks import GrammarMasks
from corral.adapters.runners.request_masks import RequestMasks
from corral.core.errors import ErrorInfo
from corral.core.ports.tokens import OpenTokenizer
from corral.core.requests.outputs import Delta, Finished, Output
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, Constraint, SamplingParams, Thinking
from corral.core.specs.engines import LoadRequest, LocalFile
from corral.core.specs.imports import import_name
from corral.core.stepping.loops import EngineLoop, GeneratorLoop, StepLoop

pytestmark = pytest.mark.native

SCHEMA = {
    "type": "object",
    "properties": {
        "animal": {"enum": ["horse", "mule"]},
        "age": {"type": "integer", "minimum": 1, "maximum": 40},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1, "maxItems": 2},
    },
    "required": ["animal", "age", "names"],
    "additionalProperties": False,
}
HELD = Constraint(kind="json_schema", source=json.dumps(SCHEMA))
QUESTION = "<|im_start|>user\nDescribe an animal of a stable.<|im_end|>\n<|im_start|>assistant\n"


@dataclass
class Held:
    """An engine's loop and its mask factory."""

    loop: EngineLoop
    masks: GrammarMasks

    def add(self, request_id: int, request: CompletionRequest) -> None:
        constraint = request.constraint
        self.loop.add(request_id, request, self.masks(constraint) if constraint is not None else None)

    def answers(self, *requests: CompletionRequest) -> list[list[Output]]:
        """Runs the requests together and returns the outputs of each."""
        for request_id, request in enumerate(requests):
            self.add(request_id, request)
        outputs: list[list[Output]] = [[] for _ in requests]
        while self.loop.unfinished():
            for request_id, item in self.loop.step():
                assert not isinstance(item, ErrorInfo), item
                outputs[request_id].append(item)
        return outputs


def _folder(path: Path) -> tuple[LocalFile, ...]:
    return tuple(LocalFile(role="weights", path=str(file), name=file.name) for file in sorted(path.iterdir()))


@pytest.fixture(scope="module", params=["llama_cpp", "onnx_genai", "ctransformers"])
def held(request: pytest.FixtureRequest) -> Iterator[Held]:
    engine: str = request.param
    files: Callable[[], tuple[LocalFile, ...]] = {
        "llama_cpp": lambda: (LocalFile(role="weights", path=str(request.getfixturevalue("smollm2"))),),
        "onnx_genai": lambda: _folder(request.getfixturevalue("smollm2_onnx")),
        "ctransformers": lambda: (
            LocalFile(role="weights", path=str(request.getfixturevalue("smollm2_ctransformers"))),
        ),
    }[engine]
    spec = import_name(f"corral.adapters.engines.{engine}.spec:SPEC")
    options: dict[str, Any] = {"num_ctx": 512} | ({} if engine == "ctransformers" else {"num_parallel": 4})
    load_request = LoadRequest(model="smol", files=files(), load_options=options)
    loaded = import_name(spec.load)(load_request, lambda share: None)
    assert "constraints" in loaded.info.features
    masks = GrammarMasks(cast(OpenTokenizer, loaded.tokenizer).vocabulary())
    yield Held(GeneratorLoop(loaded) if spec.form == "generator" else StepLoop(loaded), masks)
    loaded.close()


def ask(constraint: Constraint | None = HELD, *, logprobs: int | None = None, **sampling: Any) -> CompletionRequest:
    return CompletionRequest(
        prompt=(TextPart(text=QUESTION, parse_special=True),),
        sampling=SamplingParams(**{"temperature": 1.0, "seed": 1, "num_predict": 160, **sampling}),
        constraint=constraint,
        logprobs=logprobs,
    )


def text(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs if isinstance(output, Delta))


def finish(outputs: list[Output]) -> str:
    assert isinstance(outputs[-1], Finished)
    return outputs[-1].reason


def test_answers_fit_the_schema(held: Held) -> None:
    """At temperature 1, with any seed and samplers, the answer is JSON that fits the schema and ends by itself."""
    answers = held.answers(ask(), ask(), ask(seed=2, repeat_penalty=1.3, ignore_eos=True, mirostat=1))
    for outputs in answers:
        answer = json.loads(text(outputs))
        assert list(answer) == ["animal", "age", "names"]
        assert answer["animal"] in ("horse", "mule")
        assert 1 <= answer["age"] <= 40
        assert 1 <= len(answer["names"]) <= 2
        assert all(len(name) <= 3 for name in answer["names"])
        assert finish(outputs) == "stop"
    assert text(answers[0]) == text(answers[1])  # a mask takes no part in chance


def test_neighbours_stay_as_they_are(held: Held) -> None:
    """An unconstrained request gets the same text alone and among constrained ones, greedy and sampled."""
    free = ask(None, num_predict=12, seed=3)
    [alone] = held.answers(free)
    together = held.answers(ask(seed=8, num_predict=16), free, ask(seed=9, num_predict=16))
    assert text(together[1]) == text(alone)


def test_one_that_is_cancelled_midway_leaves_the_others(held: Held) -> None:
    """After an abort no output of the request follows, and another answer continues to its end."""
    held.add(0, ask(seed=1))
    held.add(1, ask(seed=2))
    outputs: dict[int, list[Any]] = {0: [], 1: []}
    aborted = False
    while held.loop.unfinished():
        for request_id, item in held.loop.step():
            assert not (aborted and request_id == 0)
            outputs[request_id].append(item)
        if not aborted and sum(isinstance(item, Delta) for item in outputs[0]) >= 3:
            held.loop.abort(0)
            aborted = True
    assert aborted
    json.loads(text(outputs[1]))


def test_limits_and_stop_strings_hold(held: Held) -> None:
    """A token limit or a stop string ends a constrained answer like any other."""
    limited, stopped = held.answers(ask(num_predict=5), ask(stop=('"age"',)))
    assert finish(limited) == "length"
    assert isinstance(limited[-1], Finished)
    assert limited[-1].usage.generated_tokens == 5
    assert finish(stopped) == "stop"
    assert '"animal"' in text(stopped)
    assert '"age"' not in text(stopped)


def test_log_probabilities_are_taken_before_the_mask(held: Held) -> None:
    """The reported log-probabilities are those of the model, before the mask."""
    forced = ask(Constraint(kind="regex", source="zzz"), logprobs=2, temperature=0.0)
    free = ask(None, logprobs=2, temperature=0.0, num_predict=1)
    (forced_outputs, free_outputs) = held.answers(forced, free)
    assert text(forced_outputs) == "zzz"
    [first, *_] = [output.logprobs[0] for output in forced_outputs if isinstance(output, Delta) and output.logprobs]
    [liked, *_] = [output.logprobs[0] for output in free_outputs if isinstance(output, Delta) and output.logprobs]
    assert [top.token for top in first.top] == [top.token for top in liked.top]
    assert first.logprob < liked.logprob - 3


def test_a_constraint_begins_after_the_thinking(held: Held) -> None:
    """While a prompt has opened the thinking, the answer is free up to its limit; then it follows the grammar."""
    masks = RequestMasks(held.loop.engine)
    thinking = Thinking(start="", end="</think>", max_tokens=20)
    request = msgspec.structs.replace(ask(Constraint(kind="regex", source=r"\[[0-9]{3}\]")), thinking=thinking)
    held.loop.add(0, request, masks.mask(request))
    said = ""
    while held.loop.unfinished():
        said += text([item for _, item in held.loop.step() if isinstance(item, Output)])
    assert re.search(r"</think>\s*\[[0-9]{3}\]$", said)
