"""What the suites of loaded models share: one load for a whole class, and promises that name their tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec
import pytest

from corral.core.ports.runners import Runner
from corral.core.ports.running import Task
from corral.core.requests.messages import Message
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import (
    ChatRequest,
    CompletionRequest,
    Constraint,
    ContextPolicy,
    EmbedRequest,
    RerankRequest,
    SamplingParams,
)
from corral.core.specs.engines import EngineSpec, LoadRequest
from corral.core.specs.imports import import_name
from corral.plugins.testing.loaded import ModelUnderTest

__all__ = ("RUNNERS", "LoadedContract", "asked", "embedding", "promise", "reranking")

Test = TypeVar("Test", bound=Callable[..., None])

RUNNERS = {
    "process": "corral.adapters.runners.process:ProcessRunner",
    "thread": "corral.adapters.runners.thread:ThreadRunner",
    "event_loop": "corral.adapters.runners.event_loop:EventLoopRunner",
}
"""The import paths of the built-in runners."""


def promise(*tasks: Task) -> Callable[[Test], Test]:
    """Marks a test for models with one of these tasks; it runs once for each task that the model has."""
    return pytest.mark.parametrize("task", tasks, indirect=True)


def asked(
    task: str,
    text: str,
    *,
    context: ContextPolicy = ContextPolicy(),  # noqa: B008 - a frozen value
    constraint: Constraint | None = None,
    logprobs: int | None = None,
    return_token_ids: bool = False,
    **sampling: Any,
) -> CompletionRequest | ChatRequest:
    """`text` as a request of the task: a prompt, or a message of a user. By default, greedy and short."""
    common: dict[str, Any] = {
        "sampling": SamplingParams(**{"temperature": 0.0, "num_predict": 8} | sampling),
        "context": context,
        "constraint": constraint,
        "logprobs": logprobs,
        "return_token_ids": return_token_ids,
    }
    if task == "chat":
        return ChatRequest(messages=(Message(role="user", content=text),), **common)
    return CompletionRequest(prompt=(TextPart(text=text),), **common)


def embedding(*texts: str) -> EmbedRequest:
    """The texts as one request for vectors."""
    return EmbedRequest(inputs=tuple((TextPart(text=text),) for text in texts))


def reranking(query: str, *documents: str) -> RerankRequest:
    """The query and the documents as one request for scores."""
    return RerankRequest(
        query=(TextPart(text=query),), documents=tuple((TextPart(text=document),) for document in documents)
    )


class LoadedContract:
    """Loads a model once for all tests of a class.

    A subclass sets `spec`, and `load_options` if the defaults do not suffice; an engine that needs files overrides the
    fixture `load_request`. `prompts` are sent, each of a different length. `limit_s` ends what hangs.
    """

    spec: ClassVar[EngineSpec]
    load_options: ClassVar[Mapping[str, Any]] = {}
    prompts: ClassVar[tuple[str, ...]] = (
        "Once upon a time there was a horse",
        "The three little pigs went to the market and bought",
        "Count: one, two, three, four, five, six,",
        "My favourite colour is blue, because the sea and the sky are blue, and because",
    )
    limit_s: ClassVar[float] = 120.0

    @pytest.fixture
    def load_request(self) -> LoadRequest:
        """The request that the model is loaded with; only that of the first test is used."""
        return LoadRequest(model="kit:latest", files=(), load_options=self.plain_options())

    @pytest.fixture
    def runner(self) -> Runner:
        """The runner of the model: the first that the spec allows."""
        runner: Runner = import_name(RUNNERS[self.spec.runners[0]])()
        return runner

    def require(self, loaded: ModelUnderTest, feature: str) -> None:
        """Skips a test of a feature that the model does not claim in ``info.features``."""
        if feature not in loaded.info.features:
            pytest.skip(
                f"info.features does not name {feature!r}: the {self.spec.name} engine does not promise it here"
            )

    @classmethod
    def plain_options(cls) -> Mapping[str, Any]:
        """`load_options` as an engine gets them: every field of its Struct, as plain data."""
        if cls.spec.load_options is None:
            return {}
        options: dict[str, Any] = msgspec.to_builtins(msgspec.convert(dict(cls.load_options), cls.spec.load_options))
        return options

    @pytest.fixture
    def loaded(self, load_request: LoadRequest, runner: Runner, _kept: list[ModelUnderTest]) -> ModelUnderTest:
        if not _kept:
            _kept.append(ModelUnderTest(self.spec, load_request, runner, limit_s=self.limit_s))
        return _kept[0]

    @pytest.fixture(scope="class")
    @classmethod
    def _kept(cls) -> Iterator[list[ModelUnderTest]]:
        kept: list[ModelUnderTest] = []
        yield kept
        for loaded in kept:
            loaded.close()

    @pytest.fixture
    def task(self, request: pytest.FixtureRequest, loaded: ModelUnderTest) -> str:
        """The task that a promise is about; the test is skipped if the model does not have it."""
        task: str = request.param
        if task not in loaded.info.tasks:
            pytest.skip(
                f"info.tasks does not name {task!r}: the {self.spec.name} engine does not do it with this model"
            )
        return task
