"""The suite that every engine must pass, loaded by a runner: `RunningModelContract`."""

from __future__ import annotations

from typing import get_args

import pytest

from corral.core.errors import CorralError, PromptTooLong, Unsupported
from corral.core.ports.running import Task
from corral.core.requests.requests import ContextPolicy, Request
from corral.plugins.testing.company_promises import CompanyPromises
from corral.plugins.testing.embedding_promises import EmbeddingPromises
from corral.plugins.testing.loaded import ModelUnderTest
from corral.plugins.testing.loading import asked, embedding, promise, reranking
from corral.plugins.testing.rerank_promises import RerankPromises
from corral.plugins.testing.text_promises import TextPromises
from corral.plugins.testing.vocabulary_promises import VocabularyPromises

__all__ = ("RunningModelContract",)

_SHORT_CONTEXT = 64


class _UnheardOf(Request, frozen=True, kw_only=True):
    """A request of a task that no model has."""


class RunningModelContract(TextPromises, CompanyPromises, EmbeddingPromises, RerankPromises, VocabularyPromises):
    """What every loaded model promises, whatever is behind it.

    ::

        class TestParrot(RunningModelContract):
            spec = SPEC
            load_options = {"num_ctx": 512}

    An engine that needs files provides them with the fixture `load_request`. Each promise names its tasks: a model is
    tested on those of its ``info.tasks``, and on what it claims in ``info.features``.
    """

    def test_it_says_what_it_does(self, loaded: ModelUnderTest) -> None:
        """The model has at least one task, its tasks are among those of the spec, and lengths are positive."""
        info = loaded.info
        assert info.tasks, "info.tasks is empty: name what the model does, for example 'completion'"
        assert info.tasks <= self.spec.tasks
        assert info.parallel >= 1
        assert info.context_length is None or info.context_length > 0
        assert loaded.model.alive

    def test_a_task_it_does_not_have(self, loaded: ModelUnderTest) -> None:
        """A request of another task raises `Unsupported`, and the model keeps working."""
        strange = [_request_of(task) for task in get_args(Task) if task not in loaded.info.tasks]
        for request in strange or [_UnheardOf()]:
            with pytest.raises(Unsupported):
                loaded.run(loaded.ask(request))
        assert loaded.model.alive

    @promise("completion", "chat")
    def test_a_prompt_beyond_the_context(self, loaded: ModelUnderTest, task: str) -> None:
        """It raises `PromptTooLong` if the model knows its context length; the next request is answered."""
        if loaded.info.context_length is None:
            pytest.skip("info.context_length is None: the model knows no limit, so none is tried")
        num_ctx = min(_SHORT_CONTEXT, loaded.info.context_length)
        request = asked(task, "word " * 4 * num_ctx, context=ContextPolicy(num_ctx=num_ctx, shift=False))
        with pytest.raises(PromptTooLong):
            loaded.run(loaded.ask(request))
        assert loaded.run(loaded.ask(asked(task, self.prompts[0], num_predict=2))).outputs

    def test_closing_twice(self, loaded: ModelUnderTest) -> None:
        """A model can be closed twice; then it is not alive, and a request raises a `CorralError`."""

        async def close() -> None:
            model = await loaded.load()
            await model.aclose()
            await model.aclose()
            assert not model.alive
            task = min(model.info.tasks, default="completion")
            with pytest.raises(CorralError):
                async for _ in model.run(_request_of(task)):
                    pass

        loaded.run(close())


def _request_of(task: str) -> Request:
    if task == "embedding":
        return embedding("a horse")
    return reranking("a horse", "an animal") if task == "rerank" else asked(task, "a horse")
