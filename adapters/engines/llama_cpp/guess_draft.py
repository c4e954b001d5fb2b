"""Guesses of a draft model: a smaller one with the same tokens, whose likeliest tokens are guessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llama_cpp as C

from corral.adapters.engines.llama_cpp.guess_prompt import PromptLookup
from corral.adapters.engines.llama_cpp.guessing import Offer
from corral.adapters.engines.llama_cpp.memory_needs import KV_BYTES_PER_VALUE
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.streams import common_prefix
from corral.core.errors import InvalidModelFile

__all__ = ("DraftGuesser", "DraftModel", "PromptOrDraft", "require_same_tokens")

_AT_ONCE = 64
"""So many tokens of a prompt are computed in one step, while other answers wait for it."""
_PADDING = 128
"""Vocabularies may differ by so many tokens at their end, which pad them to a round size."""


def require_same_tokens(model: LlamaModel, draft: LlamaModel) -> None:
    """Raises `InvalidModelFile` that names both, unless the ids of the draft model mean what those of the model do."""
    sizes = model.vocabulary_size, draft.vocabulary_size
    differs = None
    if abs(sizes[0] - sizes[1]) <= _PADDING:
        text = C.llama_vocab_get_text
        ids = range(min(sizes))
        differs = next((one for one in ids if text(model.vocab, one) != text(draft.vocab, one)), None)
        if differs is None:
            return
    found = f"{sizes[1]} tokens, not {sizes[0]}" if differs is None else f"another token {differs}"
    raise InvalidModelFile(
        f"the draft model {_name(draft)} has another vocabulary than {_name(model)}: {found}",
        "use a smaller model of the same family, or guess = prompt",
    )


class DraftModel:
    """The draft model of a model: it computes the texts of as many requests at once as it has `streams`. Owns its
    weights and its context.

    `threads` says how many threads to use. What an ended request has computed serves the next with the same beginning.
    """

    def __init__(self, model: LlamaModel, context: LlamaContext, *, streams: int, threads: Callable[[], int]) -> None:
        self._model = model
        self.context = context
        self.batch = Batch(_AT_ONCE)
        self.vocabulary_size = model.vocabulary_size
        self._threads = threads
        self.held: list[list[int]] = [[] for _ in range(streams)]
        self._free = list(range(streams))

    @property
    def size_bytes(self) -> int:
        """Weights and KV cache."""
        tokens = self.context.num_ctx * len(self.held)
        return self._model.size_bytes + int(tokens * self._model.kv_values_per_token * KV_BYTES_PER_VALUE["f16"])

    def take(self, tokens: Sequence[int]) -> int | None:
        """A free stream, with as much as possible of the tokens' beginning; None if all are taken."""
        if not self._free:
            return None
        best = max(self._free, key=lambda stream: common_prefix(self.held[stream], tokens, len(tokens)))
        self._free.remove(best)
        return best

    def give_back(self, stream: int) -> None:
        self._free.append(stream)

    def compute(self, stream: int, tokens: Sequence[int], *, last: bool) -> bool:
        """Compute tokens that follow in the stream, with the logits of the last one if asked for. Return False if that
        fails: the stream is empty then.
        """
        held = self.held[stream]
        self.context.set_threads(self._threads())
        self.batch.fill_chunk(tokens, len(held), stream, last=last)
        if self.context.decode(self.batch) != 0:
            self.keep(stream, 0)
            return False
        held.extend(tokens)
        return True

    def keep(self, stream: int, count: int) -> None:
        """Forget all but the first `count` tokens of the stream."""
        held = self.held[stream]
        if count < len(held):
            if not self.context.trim(stream, count):
                self.context.trim(stream, 0)
                count = 0
            del held[count:]

    def close(self) -> None:
        """May be called twice."""
        self.context.close()
        self._model.close()


class DraftGuesser:
    """The `Guesser` of one request. It has nothing to offer before the draft model has computed the prompt, in pieces,
    or if all of its streams are taken, and no more once it has not been asked for 64 tokens.
    """

    def __init__(self, draft: DraftModel, tokens: Sequence[int], *, limit: int) -> None:
        """`limit` is the size of the model's vocabulary: a draft model may have some more."""
        self._draft = draft
        self._limit = limit
        self._tokens = list(tokens)
        self._stream = draft.take(self._tokens) if all(token >= 0 for token in tokens) else None
        self._begun = False
        self._agreed = 0  # so many of the tokens it holds are those of the text
        if self._stream is not None:
            self._agreed = common_prefix(draft.held[self._stream], self._tokens, len(self._tokens))

    def add(self, token: int) -> None:
        self._tokens.append(token)
        if self._stream is not None and self._agreed == len(self._tokens) - 1:
            held = self._draft.held[self._stream]
            self._agreed += len(held) > self._agreed and held[self._agreed] == token

    def offer(self, most: int) -> Offer:
        room = self._draft.context.num_ctx - len(self._tokens)
        most = min(most, room)
        if self._stream is None or most <= 0:
            return Offer(0, "draft")
        if len(self._tokens) - self._agreed > _AT_ONCE:
            if self._begun:
                self.close()  # it has not been asked for long: computing the answer as well would be for nothing
                return Offer(0, "draft")
            self._catch_up(self._stream)
        self._begun = len(self._tokens) - self._agreed <= _AT_ONCE
        return Offer(most if self._begun else 0, "draft")

    def guess(self, count: int) -> list[int]:
        stream, draft = self._stream, self._draft
        assert stream is not None
        self._agreed = min(self._agreed, len(self._tokens) - 1)  # the last one again, for its logits
        following = self._tokens[self._agreed :]
        draft.keep(stream, self._agreed)
        self._agreed = len(draft.held[stream])
        guessed: list[int] = []
        if self._agreed != len(self._tokens) - len(following):
            return guessed  # its memory cannot be truncated there
        while draft.compute(stream, following, last=True):
            self._agreed = min(len(self._tokens), len(draft.held[stream]))
            token = int(draft.context.logits(len(following) - 1).argmax())
            if token >= self._limit:
                break
            guessed.append(token)
            if len(guessed) == count:
                break
            following = [token]
        else:
            self._agreed = 0
        return guessed

    def _catch_up(self, stream: int) -> None:
        self._draft.keep(stream, self._agreed)
        self._agreed = len(self._draft.held[stream])
        self._draft.compute(stream, self._tokens[self._agreed : self._agreed + _AT_ONCE], last=False)
        self._agreed = len(self._draft.held[stream])

    def close(self) -> None:
        if self._stream is not None:
            self._draft.give_back(self._stream)
            self._stream = None


class PromptOrDraft:
    """The `Guesser` that prefers what has followed a long match before, which costs nothing."""

    def __init__(self, lookup: PromptLookup, draft: DraftGuesser) -> None:
        self._lookup = lookup
        self._draft = draft
        self._looked_up = False

    def add(self, token: int) -> None:
        self._lookup.add(token)
        self._draft.add(token)

    def offer(self, most: int) -> Offer:
        found, drafted = self._lookup.offer(most), self._draft.offer(most)
        self._looked_up = found.evidence in ("long", "very long") or not drafted.length
        return found if self._looked_up else drafted

    def guess(self, count: int) -> list[int]:
        return self._lookup.guess(count) if self._looked_up else self._draft.guess(count)

    def close(self) -> None:
        self._draft.close()


def _name(model: LlamaModel) -> str:
    name = model.metadata("general.name")
    return f"{name!r} ({model.description})" if name else model.description
