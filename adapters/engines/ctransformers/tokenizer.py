"""The engine's `OpenTokenizer`: splits prompts at control tokens, encodes the text between them, and adds BOS once.

Nothing here is native or shared with the computation, so that it never waits for a step. Thread-safe.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

from corral.adapters.engine_kit.text_pieces import TextPieces, TokenSizes, finished, gradual_ids
from corral.adapters.engine_kit.token_ids import checked_ids
from corral.adapters.engines.ctransformers.words import (
    TextEncoder,
    byte_pairs,
    longest_matches,
    sentence_pieces,
    unigrams,
)
from corral.adapters.formats.ggml.file import GgmlFile
from corral.adapters.formats.gguf.pretokenizers import PRE_TOKENIZERS
from corral.adapters.formats.gguf.vocabulary import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED, GgufVocabulary
from corral.core.errors import InvalidModelFile
from corral.core.ports.tokens import Vocabulary
from corral.core.requests.prompts import Prompt

__all__ = ("TextTokenizer", "ggml_tokenizer", "gguf_tokenizer")

_LEGACY_ENDS = frozenset({"<|endoftext|>", "<|im_end|>", "<|end|>", "<|end_of_turn|>", "### End"})
_LEGACY_CONTROL = _LEGACY_ENDS | {
    "<|padding|>", "<|im_start|>", "<|system|>", "<|user|>", "<|assistant|>", "### Instruction:", "### Response:",
    *(f"<fim{dash}{name}>" for dash in "-_" for name in ("prefix", "middle", "suffix", "pad")),
}  # fmt: skip
"""Legacy files do not list their control tokens; these are control tokens in every vocabulary that has them."""


class TextTokenizer:
    """`marked` are the tokens at which prompts are split, by text; those that are not control tokens always count."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        encode_text: TextEncoder,
        *,
        marked: dict[str, int],
        bos: int | None,
        lossless: bool = False,
    ) -> None:
        self._vocabulary = vocabulary
        self._encode_text = encode_text
        self._marked = marked
        self._bos = bos
        self._all = _alternatives(marked)
        self._always = _alternatives([text for text, token_id in marked.items() if token_id not in vocabulary.control])
        self._text_pieces = TextPieces(self.text_ids, TokenSizes(vocabulary.pieces, lossless=lossless), marked)

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        return [finished(self.encode_gradually(prompt)) for prompt in prompts]

    def encode_gradually(
        self, prompt: Prompt, *, most: int | None = None, cut: bool = False
    ) -> Generator[None, None, tuple[int, ...]]:
        size = len(self._vocabulary.pieces)
        ids = yield from gradual_ids(prompt, self._text_pieces, size, most, cut=cut)
        if self._bos is not None and ids[:1] != [self._bos]:
            ids.insert(0, self._bos)
        return tuple(ids)

    @property
    def longest_token_bytes(self) -> int | None:
        """As `ModelInfo.longest_token_bytes`."""
        return self._text_pieces.sizes.longest

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join([self.piece(token_id) for token_id in checked_ids(ids, len(self._vocabulary.pieces))])

    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def piece(self, token_id: int) -> bytes:
        """The token's bytes, with control tokens spelled out."""
        return self._vocabulary.pieces[token_id]

    def text_ids(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Return the ids of a text, with nothing added. Control tokens in it stay text unless `parse_special`."""
        marks = self._all if parse_special else self._always
        if marks is None:
            return self._encode_text(text) if text else []
        ids: list[int] = []
        for place, part in enumerate(marks.split(text)):
            if place % 2:
                ids.append(self._marked[part])
            elif part:
                ids.extend(self._encode_text(part))
        return ids

    def control_id(self, text: str) -> int | None:
        """The id of the control token with this text; None if there is none."""
        return self._marked.get(text)


def gguf_tokenizer(path: str, vocabulary: GgufVocabulary) -> TextTokenizer:
    """Create the tokenizer of a GGUF vocabulary. Raises `InvalidModelFile` if its kind is unknown."""
    marked = {
        text: place
        for place, text in enumerate(vocabulary.texts)
        if text and vocabulary.kind(place) in (CONTROL, USER_DEFINED, UNKNOWN)
    }
    ids = {text: place for place, text in enumerate(vocabulary.texts) if vocabulary.kind(place) == NORMAL}
    if vocabulary.model == "gpt2":
        pretokenizer = PRE_TOKENIZERS.get(vocabulary.pre or "default")
        if pretokenizer is None or not vocabulary.merges:
            raise InvalidModelFile(f"{path}: its BPE vocabulary has no merges, or an unknown pre-tokenizer")
        encode = byte_pairs(ids, vocabulary.merges, pretokenizer)
        add_bos = pretokenizer.add_bos
    elif vocabulary.model == "llama":
        pieces = vocabulary.pieces()
        bytes_of = {pieces[place][0]: place for place, kind in enumerate(vocabulary.kinds) if kind == BYTE}
        space_prefix = vocabulary.add_space_prefix is not False
        encode = sentence_pieces(ids, vocabulary.scores, bytes_of, space_prefix=space_prefix)
        add_bos = True
    else:
        raise InvalidModelFile(
            f"{path}: its vocabulary is of type {vocabulary.model!r}; only gpt2 and llama are supported"
        )
    if vocabulary.add_bos is not None:
        add_bos = vocabulary.add_bos
    return TextTokenizer(
        Vocabulary(pieces=vocabulary.pieces(), control=vocabulary.control_ids(), ends=vocabulary.ends()),
        encode,
        marked=marked,
        bos=vocabulary.named.get("bos") if add_bos else None,
        lossless=True,
    )


def ggml_tokenizer(file: GgmlFile) -> TextTokenizer:
    """Create the tokenizer of a legacy file, which has tokens, perhaps scores, and nothing else.

    Its models want no BOS.
    """
    texts = [token.decode("utf-8", "replace") for token in file.tokens]
    marked = {text: place for place, text in enumerate(texts) if text in _LEGACY_CONTROL}
    ends = frozenset(marked[text] for text in _LEGACY_ENDS if text in marked)
    pieces = file.tokens
    if file.scores:
        pieces = tuple([token.replace(SPACE.encode(), b" ") for token in pieces])
        ids = {text: place for place, text in enumerate(texts) if text and text not in marked}
        encode = unigrams(ids, file.scores, unknown=0)
    else:
        control = set(marked.values())
        encode = longest_matches({token: place for place, token in enumerate(pieces) if token and place not in control})
    vocabulary = Vocabulary(pieces=pieces, control=frozenset(marked.values()), ends=ends)
    return TextTokenizer(vocabulary, encode, marked=marked, bos=None)


def _alternatives(texts: Sequence[str] | dict[str, int]) -> re.Pattern[str] | None:
    """A group that matches any of the texts, the longest first; None if there are none."""
    if not texts:
        return None
    return re.compile("(" + "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) + ")")
