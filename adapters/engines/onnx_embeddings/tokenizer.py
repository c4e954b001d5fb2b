"""Text to token ids and back with the library `tokenizers`. Safe for many threads: nothing in it changes."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from pathlib import Path

import tokenizers

from corral.adapters.engine_kit.hf_text import divided_text
from corral.adapters.engine_kit.text_pieces import finished, gradual_ids
from corral.adapters.engine_kit.token_ids import checked_ids
from corral.core.errors import InvalidModelFile
from corral.core.requests.prompts import Prompt

__all__ = ("EncoderTokenizer",)


class EncoderTokenizer:
    """The `Tokenizer` port over a ``tokenizer.json``, whose own limits and padding are ignored.

    `opening` and `closing` are the ids that the model wants around each text (``[CLS]`` and ``[SEP]``).
    """

    def __init__(self, path: Path, vocabulary_size: int | None) -> None:
        """Raises `InvalidModelFile`. `vocabulary_size` is the model's; None means the tokenizer's."""
        try:
            self._special, self._plain = (tokenizers.Tokenizer.from_file(str(path)) for _ in range(2))
            described = json.loads(path.read_bytes())
        except Exception as error:  # the library raises bare Exceptions
            raise InvalidModelFile(f"{path.name} cannot be read: {error}") from error
        self._plain.encode_special_tokens = True  # "[SEP]" typed by a user stays text
        for tokenizer in (self._special, self._plain):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self.vocabulary_size: int = vocabulary_size or self._special.get_vocab_size()
        self.opening, self.closing = self._surroundings()
        self._around_pairs = self._surroundings_of_pairs()
        self._text_pieces = divided_text(self._special, described, self._text_ids)

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        return [tuple(self.tokens(prompt)) for prompt in prompts]

    def encode_gradually(
        self, prompt: Prompt, *, most: int | None = None, cut: bool = False
    ) -> Generator[None, None, tuple[int, ...]]:
        steps = gradual_ids(prompt, self._text_pieces, self.vocabulary_size, most, cut=cut)
        return tuple(self._surrounded((yield from steps)))

    @property
    def longest_token_bytes(self) -> int | None:
        """As `ModelInfo.longest_token_bytes`."""
        return self._text_pieces.sizes.longest

    def decode(self, ids: Sequence[int]) -> bytes:
        text: str = self._special.decode(list(checked_ids(ids, self.vocabulary_size)), skip_special_tokens=False)
        return text.encode("utf-8", "replace")

    def tokens(self, prompt: Prompt) -> list[int]:
        """The prompt's ids, with `opening` and `closing` added if they are missing."""
        return self._surrounded(finished(gradual_ids(prompt, self._text_pieces, self.vocabulary_size, None, cut=False)))

    def _surrounded(self, ids: list[int]) -> list[int]:
        if self.opening and ids[: len(self.opening)] != self.opening:
            ids[:0] = self.opening
        if self.closing and ids[-len(self.closing) :] != self.closing:
            ids.extend(self.closing)
        return list(checked_ids(ids, self.vocabulary_size))

    def bare(self, prompt: Prompt) -> list[int]:
        """The prompt's ids without `opening` and `closing`: long texts come as ids that have them."""
        ids = self.tokens(prompt)
        return ids[len(self.opening) : len(ids) - len(self.closing)]

    def pair(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], int]:
        """The ids of two texts that the model reads together, and where those begin that are of the second type: at
        their end if it has one type. Raises `InvalidModelFile` if the tokenizer does not join texts.
        """
        if self._around_pairs is None:
            raise InvalidModelFile(
                "tokenizer.json does not say how a query and a document are joined",
                "use the one that was published with the model",
            )
        opening, divider, closing, has_types = self._around_pairs
        ids = [*opening, *first, *divider, *second, *closing]
        return ids, len(opening) + len(first) + len(divider) if has_types else len(ids)

    def shortened(self, ids: list[int], limit: int) -> list[int]:
        """At most `limit` ids: the end of the text is cut, but the closing tokens are kept."""
        if len(ids) <= limit:
            return ids
        return ids[: max(limit - len(self.closing), len(self.opening))] + self.closing

    def _text_ids(self, text: str, *, parse_special: bool) -> Sequence[int]:
        tokenizer = self._special if parse_special else self._plain
        # Unlike `encode`, this releases the GIL, so that heartbeats continue during a long text.
        ids: list[int] = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def _surroundings(self) -> tuple[list[int], list[int]]:
        bare = self._special.encode("a", add_special_tokens=False).ids
        whole = self._special.encode("a").ids
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        return [], []

    def _surroundings_of_pairs(self) -> tuple[list[int], list[int], list[int], bool] | None:
        """What stands in front of two texts, between them and behind them, and whether the second has its own type.
        None if the tokenizer does not join two texts in their order.
        """
        pair = self._special.encode("a", "a")
        texts = "".join("-" if text is None else str(text) for text in pair.sequence_ids)
        parts = re.fullmatch("(-*)0+(-*)(1+)(-*)", texts)
        if parts is None:
            return None
        opening, divider, closing = (pair.ids[slice(*parts.span(number))] for number in (1, 2, 4))
        return opening, divider, closing, pair.type_ids[parts.start(3)] == 1
