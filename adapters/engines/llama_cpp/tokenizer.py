"""Text to token ids and back, with the model's own vocabulary. Safe for many threads: the vocabulary is only read."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import llama_cpp as C

from corral.adapters.engines.llama_cpp.native import Model
from corral.adapters.token_ids import checked_ids, prompt_ids
from corral.core.errors import EngineDied
from corral.core.ports.inference import Vocabulary
from corral.core.requests import Prompt

__all__ = ("LlamaTokenizer",)


class LlamaTokenizer:
    """The `OpenTokenizer` port over a loaded model."""

    def __init__(self, model: Model) -> None:
        self._lock = threading.Lock()  # held by other threads' calls, so that the model outlives them
        self._closed = False
        self._size = model.vocabulary_size
        vocab = model.vocab
        self._vocab = vocab
        self._bos = int(C.llama_vocab_bos(vocab)) if C.llama_vocab_get_add_bos(vocab) else -1
        ending = []
        if C.llama_vocab_get_add_eos(vocab):
            ending.append(int(C.llama_vocab_eos(vocab)))
        if C.llama_vocab_get_add_sep(vocab):
            ending.append(int(C.llama_vocab_sep(vocab)))
        self._ending = tuple(ending)
        self._pieces: dict[int, bytes] = {}
        self._vocabulary: Vocabulary | None = None

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        with self._lock:
            self._require_open()
            return [tuple(self.tokens(prompt)) for prompt in prompts]

    def decode(self, ids: Sequence[int]) -> bytes:
        with self._lock:
            self._require_open()
            return b"".join(self.piece(token_id, special=True) for token_id in checked_ids(ids, self._size))

    def vocabulary(self) -> Vocabulary:
        with self._lock:
            self._require_open()
            if self._vocabulary is None:
                pieces = tuple(self._spelt(token_id, special=True) for token_id in range(self._size))
                self._vocabulary = Vocabulary(
                    pieces=pieces,
                    control=frozenset(i for i, piece in enumerate(pieces) if self._spelt(i, special=False) != piece),
                    ends=frozenset(self.ends(self._size)),
                )
            return self._vocabulary

    def close(self) -> None:
        """Before the model is freed: waits for calls under way, refuses later ones."""
        with self._lock:
            self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise EngineDied("the model was unloaded")

    def tokens(self, prompt: Prompt) -> list[int]:
        """The prompt's ids: BOS first where the model wants it and the prompt has none, EOS or SEP last likewise."""
        ids = prompt_ids(prompt, self.text_tokens, self._size)
        if self._bos >= 0 and (not ids or ids[0] != self._bos):
            ids.insert(0, self._bos)
        if self._ending and ids[-len(self._ending) :] != list(self._ending):
            ids.extend(self._ending)
        return ids

    def text_tokens(self, text: str, *, parse_special: bool = False) -> list[int]:
        """The ids of a text, nothing added. Control tokens spelt in it stay text unless `parse_special`."""
        if not text:
            return []
        data = text.encode("utf-8", "replace")
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

    def _spelt(self, token_id: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        length = C.llama_token_to_piece(self._vocab, token_id, buffer, 64, 0, special)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = C.llama_token_to_piece(self._vocab, token_id, buffer, -length, 0, special)
        return buffer.raw[:length]

    def control_tokens(self) -> tuple[str, ...]:
        """The spellings that count as control tokens only where they are asked for."""
        wanted = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN
        texts = (
            C.llama_vocab_get_text(self._vocab, token_id).decode("utf-8", "replace")
            for token_id in range(self._size)
            if C.llama_vocab_get_attr(self._vocab, token_id) & wanted
        )
        return tuple(dict.fromkeys(text for text in texts if text))

    def is_end(self, token_id: int) -> bool:
        return bool(C.llama_vocab_is_eog(self._vocab, token_id))

    def ends(self, vocabulary_size: int) -> list[int]:
        """All end-of-generation tokens."""
        return [token_id for token_id in range(vocabulary_size) if self.is_end(token_id)]

    def control_id(self, text: str) -> int | None:
        """The id of a control token spelt so; None where the text is no single token."""
        ids = self.text_tokens(text, parse_special=True)
        return ids[0] if len(ids) == 1 else None
