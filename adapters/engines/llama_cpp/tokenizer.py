"""Text to token ids and back, with the model's own vocabulary. Safe for many threads: the vocabulary is only read."""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Sequence
from functools import partial

import llama_cpp as C

from corral.adapters.constraints.deep_stack import on_deep_stack
from corral.adapters.engine_kit.text_pieces import PIECE_CHARACTERS, TextPieces, TokenSizes, finished, gradual_ids
from corral.adapters.engine_kit.token_choosing import ModelTokens
from corral.adapters.engine_kit.token_ids import checked_ids
from corral.adapters.engines.llama_cpp.accents import without_accents
from corral.adapters.engines.llama_cpp.native_file import NativeVocabulary
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.reader_count import Users
from corral.adapters.formats.gguf.vocabulary import SPACE
from corral.core.ports.tokens import Vocabulary
from corral.core.requests.prompts import Prompt

__all__ = ("LlamaTokenizer",)

_SPM, _BPE = 1, 2  # the kinds of vocabularies that keep all of a text
_UNKNOWN, _CONTROL, _USER_DEFINED, _STRIPS_LEFT, _STRIPS_RIGHT = 1, 8, 16, 128, 256  # attributes of a token
_SHALLOW = PIECE_CHARACTERS * 4 // 3
"""The number of characters that fit on an ordinary stack: regular expressions of vocabularies recurse for each one."""


class LlamaTokenizer:
    """The `OpenTokenizer` port over a loaded model, or its vocabulary alone."""

    def __init__(self, model: LlamaModel | NativeVocabulary) -> None:
        self._users = Users()
        self._size = model.vocabulary_size
        vocab = model.vocab
        self._vocab = vocab
        self._strips_accents = model.strips_accents
        self._bos = int(C.llama_vocab_bos(vocab)) if C.llama_vocab_get_add_bos(vocab) else -1
        # A vocabulary may lack a token that it asks for (-1); llama-server takes SEP for a missing EOS.
        eos_id, sep_id = int(C.llama_vocab_eos(vocab)), int(C.llama_vocab_sep(vocab))
        last = eos_id if eos_id >= 0 else sep_id
        eos = (last,) if C.llama_vocab_get_add_eos(vocab) and last >= 0 else ()
        sep = (sep_id,) if C.llama_vocab_get_add_sep(vocab) and sep_id >= 0 else ()
        # A SEP is what divides two texts (gguf-py's `add_sep_token`). Only a WordPiece ends a text with it as well.
        words = int(C.llama_vocab_type(vocab)) == C.LLAMA_VOCAB_TYPE_WPM
        self._ending = eos or (sep if words else ())
        self._divider = eos + sep
        self._pieces: dict[int, bytes] = {}
        self._vocabulary: Vocabulary | None = None
        self._text_pieces = self._divided()

    @property
    def longest_token_bytes(self) -> int | None:
        """As `ModelInfo.longest_token_bytes`."""
        return self._text_pieces.sizes.longest

    @property
    def opening(self) -> tuple[int, ...]:
        """What the model wants in front of every text."""
        return (self._bos,) if self._bos >= 0 else ()

    @property
    def divider(self) -> tuple[int, ...]:
        """What the model wants between two texts that it reads together."""
        return self._divider

    @property
    def ending(self) -> tuple[int, ...]:
        """What the model wants at the end of every text."""
        return self._ending

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        return [finished(self.encode_gradually(prompt)) for prompt in prompts]

    def encode_gradually(
        self, prompt: Prompt, *, most: int | None = None, cut: bool = False
    ) -> Generator[None, None, tuple[int, ...]]:
        steps = gradual_ids(prompt, self._text_pieces, self._size, most, cut=cut)
        while True:
            with self._users.one():
                try:
                    next(steps)
                except StopIteration as end:
                    self.surround(end.value)
                    return tuple(end.value)
            yield

    def decode(self, ids: Sequence[int]) -> bytes:
        with self._users.one():
            return b"".join(self.piece(token_id, special=True) for token_id in checked_ids(ids, self._size))

    def vocabulary(self) -> Vocabulary:
        with self._users.one():
            if self._vocabulary is None:
                pieces, said = self._spellings(special=True), self._spellings(special=False)
                self._vocabulary = Vocabulary(
                    pieces=tuple(pieces),
                    control=frozenset(place for place in range(self._size) if pieces[place] != said[place]),
                    ends=frozenset(self.ends(self._size)),
                )
            return self._vocabulary

    def close(self) -> None:
        """Call before the model is freed: waits for running calls and refuses later ones."""
        self._users.close()

    def tokens(self, prompt: Prompt) -> list[int]:
        """The prompt's ids, with BOS at the beginning, and EOS or SEP at the end, if the model wants them and they are
        missing.
        """
        ids = self.bare_tokens(prompt)
        self.surround(ids)
        return ids

    def bare_tokens(self, prompt: Prompt) -> list[int]:
        """The ids of the prompt's own parts."""
        return finished(gradual_ids(prompt, self._text_pieces, self._size, None, cut=False))

    def shortened(self, ids: list[int], limit: int) -> list[int]:
        """At most `limit` ids: the end of the text is cut, but the closing tokens are kept."""
        return ids if len(ids) <= limit else [*ids[: max(0, limit - len(self._ending))], *self._ending][:limit]

    def surround(self, ids: list[int]) -> int:
        """Add what `tokens` has at the beginning and the end, if it is missing; return how many were put in front."""
        begins = self._bos < 0 or (bool(ids) and ids[0] == self._bos)
        if not begins:
            ids.insert(0, self._bos)
        if self._ending and ids[-len(self._ending) :] != list(self._ending):
            ids.extend(self._ending)
        return 0 if begins else 1

    def text_tokens(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Return the ids of a text, with nothing added. Control tokens in it stay text unless `parse_special`."""
        if not text:
            return []
        if len(text) > _SHALLOW:
            return on_deep_stack(lambda: self._native_tokens(text, parse_special))
        return self._native_tokens(text, parse_special)

    def _native_tokens(self, text: str, parse_special: bool) -> list[int]:
        data = (without_accents(text) if self._strips_accents else text).encode("utf-8", "replace")
        capacity = len(data) + 8
        buffer = (C.llama_token * capacity)()
        count = C.llama_tokenize(self._vocab, data, len(data), buffer, capacity, False, parse_special)
        if count < 0:  # the buffer was too small; the answer is the size it needs
            capacity = -count
            buffer = (C.llama_token * capacity)()
            count = C.llama_tokenize(self._vocab, data, len(data), buffer, capacity, False, parse_special)
        return list(buffer[:count])

    def piece(self, token_id: int, *, special: bool = False) -> bytes:
        """The token's bytes; a control token is empty unless `special`."""
        if not special:
            known = self._pieces.get(token_id)
            if known is not None:
                return known
        piece = self._spelt(token_id, special=special)
        if not special:
            self._pieces[token_id] = piece
        return piece

    def _spellings(self, *, special: bool) -> list[bytes]:
        """What `_spelt` is for every token, in half the time: vocabularies have up to 260,000."""
        spell, vocab, buffer = C.llama_token_to_piece, self._vocab, ctypes.create_string_buffer(64)
        pieces: list[bytes] = []
        for token_id in range(self._size):
            length = spell(vocab, token_id, buffer, 64, 0, special)
            pieces.append(buffer.raw[:length] if length >= 0 else self._spelt(token_id, special=special))
        return pieces

    def _spelt(self, token_id: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        length = C.llama_token_to_piece(self._vocab, token_id, buffer, 64, 0, special)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = C.llama_token_to_piece(self._vocab, token_id, buffer, -length, 0, special)
        return buffer.raw[:length]

    def control_tokens(self) -> tuple[str, ...]:
        """The texts that act as control tokens only with `parse_special`."""
        wanted = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN
        texts = (
            C.llama_vocab_get_text(self._vocab, token_id).decode("utf-8", "replace")
            for token_id in range(self._size)
            if C.llama_vocab_get_attr(self._vocab, token_id) & wanted
        )
        return tuple(dict.fromkeys(text for text in texts if text))

    def choices(self) -> ModelTokens:
        """What choosing the next token needs to know of the vocabulary."""
        return ModelTokens(
            size=self._size,
            ends=self.ends(self._size),
            text=self.piece,
            spelling=partial(self.piece, special=True),
            control_id=self.control_id,
        )

    def ends(self, vocabulary_size: int) -> list[int]:
        """All end-of-generation tokens."""
        is_end, vocab = C.llama_vocab_is_eog, self._vocab
        return [token_id for token_id in range(vocabulary_size) if is_end(vocab, token_id)]

    def control_id(self, text: str) -> int | None:
        """The id of the control token with this text; None if the text is not a single token."""
        ids = self.text_tokens(text, parse_special=True)
        return ids[0] if len(ids) == 1 else None

    def _divided(self) -> TextPieces:
        """Read every token once, to find out how long texts may be divided and how few tokens they can have."""
        pieces = self._spellings(special=True)
        marks: list[str] = []
        strips = False
        attributes_of, vocab = C.llama_vocab_get_attr, self._vocab
        for token_id in range(self._size):
            attributes = attributes_of(vocab, token_id)
            if attributes & (_UNKNOWN | _CONTROL | _USER_DEFINED):
                text = bytes(C.llama_vocab_get_text(vocab, token_id) or b"").decode("utf-8", "replace")
                marks += (text, text.replace(SPACE, " "))
                strips = strips or bool(attributes & (_STRIPS_LEFT | _STRIPS_RIGHT))
        lossless = int(C.llama_vocab_type(self._vocab)) in (_SPM, _BPE)
        sizes = TokenSizes(pieces, lossless=lossless, free=b" \t\n\r\v\f" if strips else b"")
        return TextPieces(self.text_tokens, sizes, marks)
