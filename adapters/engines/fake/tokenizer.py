"""The fake engine's vocabulary: bytes, control tokens and common words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from corral.adapters.engine_kit.token_ids import checked_ids
from corral.core.errors import Unsupported
from corral.core.ports.tokens import Vocabulary
from corral.core.requests.prompts import MediaPart, Prompt, TokensPart

__all__ = ("BOS", "EOS", "FIRST_WORD", "WORDS", "FakeTokenizer")

_SPECIAL = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
_VOCABULARY = """
    the a of to and is in it you that was for on are with as his they be at one have this from or had by hot word
    but what some we can out other were all there when up use your how said an each she which do their time if will
    way about many then them write would like so these her long make thing see him two has look more day could go
    come did number sound no most people my over know water than call first who may down side been now find café 日本
"""
WORDS = tuple(_VOCABULARY.split())
BOS, EOS = 256, 257
FIRST_WORD = 256 + len(_SPECIAL)


class FakeTokenizer:
    """256 bytes, a few control tokens, and common words with and without a space before them."""

    def __init__(self) -> None:
        words = [form.encode() for word in WORDS for form in (f" {word}", word)]
        self.pieces: tuple[bytes, ...] = (*(bytes([byte]) for byte in range(256)), *(b"",) * len(_SPECIAL), *words)
        self._vocabulary = Vocabulary(
            pieces=(*self.pieces[:256], *(text.encode() for text in _SPECIAL), *words),
            control=frozenset(range(256, FIRST_WORD)),
            ends=frozenset({EOS}),
        )
        self._ids = {piece: index for index, piece in enumerate(self.pieces) if index >= FIRST_WORD}
        self._words = re.compile(b"|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)))
        self._special = re.compile("(" + "|".join(re.escape(text) for text in _SPECIAL) + ")")

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        return [tuple(self._encode_prompt(prompt)) for prompt in prompts]

    def decode(self, ids: Sequence[int]) -> bytes:
        spelt = self._vocabulary.pieces
        return b"".join([spelt[index] for index in checked_ids(ids, len(spelt))])

    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def text_ids(self, text: str) -> list[int]:
        """The ids of plain text: control tokens in it stay text."""
        data, ids, done = text.encode(), list[int](), 0
        for match in self._words.finditer(data):
            ids += data[done : match.start()]
            ids.append(self._ids[match[0]])
            done = match.end()
        ids += data[done:]
        return ids

    def _encode_prompt(self, prompt: Prompt) -> list[int]:
        first = prompt[0] if prompt else None
        # The ids of a long text come back here as a part, which begins with BOS already.
        ids = [] if isinstance(first, TokensPart) and first.ids[:1] == (BOS,) else [BOS]
        for part in prompt:
            if isinstance(part, TokensPart):
                ids += checked_ids(part.ids, len(self.pieces))
            elif isinstance(part, MediaPart):
                raise Unsupported("a tokenizer has no tokens for images")
            elif part.parse_special:
                for text in self._special.split(part.text):
                    ids += [256 + _SPECIAL.index(text)] if text in _SPECIAL else self.text_ids(text)
            else:
                ids += self.text_ids(part.text)
        return ids
