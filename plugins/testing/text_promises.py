"""Promises about text answers: they begin, end and stop where they should, and are counted correctly."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from corral.core.requests.outputs import Delta, Finished, Output, Started
from corral.core.requests.prompts import TokensPart
from corral.core.requests.requests import CompletionRequest, Constraint
from corral.plugins.testing.engine_requests import LOST_IDS, text_prompt
from corral.plugins.testing.loaded import ModelUnderTest
from corral.plugins.testing.loading import LoadedContract, asked, promise

__all__ = ("TextPromises",)


_ROUNDING = 1e-4


class TextPromises(LoadedContract):
    """Completions and chats, one at a time."""

    @promise("completion", "chat")
    def test_an_answer_has_words(self, loaded: ModelUnderTest, task: str) -> None:
        """An ordinary prompt gets at least one output, and some text."""
        answer = loaded.run(loaded.ask(asked(task, self.prompts[0])))
        assert answer.outputs
        assert answer.text

    @promise("completion", "chat")
    @pytest.mark.parametrize("num_predict", [1, 8])
    def test_a_finish_reason_always(self, loaded: ModelUnderTest, task: str, num_predict: int) -> None:
        """The last output says why the answer ended, even after a single token."""
        answer = loaded.run(loaded.ask(asked(task, self.prompts[0], num_predict=num_predict)))
        assert isinstance(answer.outputs[-1], Finished)
        assert answer.outputs[-1].reason in ("stop", "length")

    @promise("completion", "chat")
    def test_outputs_come_in_order(self, loaded: ModelUnderTest, task: str) -> None:
        """`Started` first, then deltas, then `Finished`; the first and the last at most once."""
        answer = loaded.run(loaded.ask(asked(task, self.prompts[1])))
        order: list[type[Output]] = [Started, Delta, Finished]
        kinds = [type(output) for output in answer.outputs]
        assert set(kinds) <= set(order)
        assert kinds == sorted(kinds, key=order.index)
        assert kinds.count(Started) <= 1
        assert kinds.count(Finished) <= 1

    @promise("completion", "chat")
    @pytest.mark.parametrize("num_predict", [1, 5])
    def test_it_stops_at_num_predict(self, loaded: ModelUnderTest, task: str, num_predict: int) -> None:
        """No more tokens than `num_predict` are given or counted."""
        answer = loaded.run(loaded.ask(asked(task, self.prompts[1], num_predict=num_predict)))
        assert answer.token_count <= num_predict
        if isinstance(answer.outputs[-1], Finished):
            assert answer.outputs[-1].usage.generated_tokens <= num_predict

    @promise("completion", "chat")
    def test_stop_strings_end_the_answer(self, loaded: ModelUnderTest, task: str) -> None:
        """An answer ends before the first stop string, with the reason ``stop``."""
        text = loaded.run(loaded.ask(asked(task, self.prompts[2]))).text.strip()
        if not text:
            pytest.skip("the answer has no words to stop at")
        # The most common letter occurs again, whatever else the engine draws.
        stop = max(sorted(set(text)), key=text.count)
        answer = loaded.run(loaded.ask(asked(task, self.prompts[2], stop=(stop,))))
        assert stop not in answer.text
        assert answer.finished.reason == "stop"

    @promise("completion", "chat")
    def test_usage_adds_up(self, loaded: ModelUnderTest, task: str) -> None:
        """Prompt and cached tokens are those that `Started` reports; each generated token is counted once."""
        request = asked(task, self.prompts[3], num_predict=6, return_token_ids=True)
        for answer in (loaded.run(loaded.ask(request)), loaded.run(loaded.ask(request))):
            usage = answer.finished.usage
            if answer.started is not None and answer.started.prompt_tokens is not None:
                assert usage.prompt_tokens == answer.started.prompt_tokens
                assert usage.cached_tokens == answer.started.cached_tokens
            assert 0 <= usage.cached_tokens <= usage.prompt_tokens
            assert usage.generated_tokens >= max(1, answer.token_count)
            if answer.finished.token_ids:
                counted = usage.prompt_tokens + usage.generated_tokens
                assert len(answer.finished.token_ids) == counted, (
                    f"Finished.token_ids has {len(answer.finished.token_ids)} ids, but {counted} tokens are counted: "
                    "with return_token_ids, Prefilled.prompt_ids needs the ids of the prompt, each Token a token_id"
                )

    @promise("completion", "chat")
    def test_log_probabilities(self, loaded: ModelUnderTest, task: str) -> None:
        """There is one for each token, at most 0, with as many alternatives as requested, most likely first."""
        self.require(loaded, "logprobs")
        answer = loaded.run(loaded.ask(asked(task, self.prompts[0], logprobs=3, num_predict=4)))
        assert len(answer.logprobs) == answer.token_count
        for token in answer.logprobs:
            others = [other.logprob for other in token.top]
            assert len(others) == 3
            assert max(token.logprob, *others) <= _ROUNDING
            assert others == sorted(others, reverse=True)

    @promise("completion", "chat")
    def test_a_constraint_holds(self, loaded: ModelUnderTest, task: str) -> None:
        """An answer constrained by a regular expression matches it as a whole, and ends with it."""
        self.require(loaded, "constraints")
        digits = Constraint(kind="regex", source="[0-9]{1,4}")
        answer = loaded.run(loaded.ask(asked(task, self.prompts[2], constraint=digits, num_predict=12)))
        assert re.fullmatch(digits.source, answer.text)
        assert answer.finished.reason == "stop"

    @promise("completion")
    def test_tokens_and_back(self, loaded: ModelUnderTest, task: str) -> None:
        """The ids of a text give the text again, and a completion counts exactly these ids as its prompt."""
        self.require(loaded, "tokenize")
        [ids] = loaded.run(loaded.model.tokenize([text_prompt(self.prompts[2])]))
        assert self.prompts[2] in loaded.run(loaded.model.detokenize(ids))
        started = loaded.run(loaded.ask(asked(task, self.prompts[2]))).started
        assert started is not None
        assert started.prompt_tokens == len(ids)

    @promise("completion")
    def test_pieces_of_tokens(self, loaded: ModelUnderTest, task: str) -> None:
        """There is a piece for each id, and joined they are the text of the ids."""
        self.require(loaded, "tokenize")
        [ids] = loaded.run(loaded.model.tokenize([text_prompt(self.prompts[2] + " élan 🐎")]))
        pieces = loaded.run(loaded.model.pieces(ids))
        assert len(pieces) == len(ids)
        assert b"".join(pieces).decode("utf-8", "replace") == loaded.run(loaded.model.detokenize(ids))

    @promise("completion")
    def test_a_prompt_of_ids(self, loaded: ModelUnderTest, task: str) -> None:
        """The ids of a text are the same prompt as the text: an engine with a tokenizer gets long texts as ids."""
        self.require(loaded, "tokenize")
        request = asked(task, self.prompts[2])
        assert isinstance(request, CompletionRequest)
        [ids] = loaded.run(loaded.model.tokenize([request.prompt]))
        as_ids = replace(request, prompt=(TokensPart(ids=ids),))
        assert loaded.run(loaded.model.tokenize([as_ids.prompt])) == [ids], LOST_IDS
        answer = loaded.run(loaded.ask(as_ids))
        assert answer.started is not None
        assert answer.started.prompt_tokens == len(ids), LOST_IDS
