"""Markov chains of words: trained from a text, asked for what may come next, kept in a file.

A file is three lines: `MAGIC`, the facts as a JSON object, and the chain as a JSON object of contexts (words joined
by a space) to the words that followed, each with how often it did. The facts stand apart so that nobody has to read
the whole file to know what it is.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from corral.plugins import InvalidModelFile, InvalidRequest, RandomAccess, RandomAccessFile

__all__ = ("END", "MAGIC", "Chain", "Facts", "read_facts", "words_of")

MAGIC = b"corral-markov 1\n"
END = ""
"""Marks the end of a sentence."""

_MOST_FACTS_BYTES = 4096
_MOST_ORDER = 8
_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"""[.!?]["')\]]*$""")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the second line says: the longest context in words, how many contexts there are, how many ways on."""

    order: int
    contexts: int
    transitions: int


class Chain:
    """How often which word followed which words. Nothing changes it once it is made: safe for many threads."""

    def __init__(self, order: int, table: Mapping[str, Mapping[str, int]]) -> None:
        self.order = order
        self._table = table

    @classmethod
    def train(cls, text: str, order: int) -> Chain:
        """Counts what follows each run of up to `order` words. Raises `InvalidRequest` for a text without words."""
        if not 1 <= order <= _MOST_ORDER:
            raise InvalidRequest(f"an order of {order} words", f"choose 1 to {_MOST_ORDER}")
        table: defaultdict[str, Counter[str]] = defaultdict(Counter)
        sentence: list[str] = []
        for word in words_of(text):
            _count(table, sentence, word, order)
            sentence.append(word)
            if _SENTENCE_END.search(word):
                _count(table, sentence, END, order)
                sentence.clear()
        if not table:
            raise InvalidRequest("the text has no words", "train with a text of a few sentences at least")
        if sentence:
            _count(table, sentence, END, order)
        return cls(order, table)

    @classmethod
    def read(cls, path: Path) -> Chain:
        """Raises `InvalidModelFile` for a file that is not a complete chain. Blocking."""
        with RandomAccessFile(path) as source:
            facts = read_facts(source)
        try:
            with path.open("rb") as file:
                file.readline()
                file.readline()
                table = msgspec.json.decode(file.read(), type=dict[str, dict[str, int]])
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidModelFile(f"{path}: {error}") from error
        if len(table) != facts.contexts or not all(table.values()):
            raise InvalidModelFile(f"{path}: it has {len(table)} whole contexts instead of {facts.contexts}")
        return cls(facts.order, table)

    @property
    def facts(self) -> Facts:
        transitions = sum(len(following) for following in self._table.values())
        return Facts(order=self.order, contexts=len(self._table), transitions=transitions)

    def write(self, path: Path) -> None:
        """Writes the file completely or not at all. Raises `OSError`."""
        lines = (MAGIC, msgspec.json.encode(self.facts), b"\n", msgspec.json.encode(self._table))
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise

    def following(self, words: Sequence[str], most: int | None = None) -> Mapping[str, int]:
        """What came after these words and how often: after as many of the last of them as the chain has seen together.

        `most` is how many of them count. What nobody has ever said is followed by what begins a sentence.
        """
        longest = min(self.order, len(words), self.order if most is None else most)
        for length in range(longest, 0, -1):
            found = self._table.get(" ".join(words[-length:]))
            if found is not None:
                return found
        return self._table[""]


def words_of(text: str) -> list[str]:
    """The words of a text, with their punctuation."""
    return _WORD.findall(text)


def read_facts(source: RandomAccess) -> Facts:
    """Reads only the facts. Raises `InvalidModelFile`. Blocking."""
    if source.read(0, len(MAGIC)) != MAGIC:
        raise InvalidModelFile(f"{source.name}: not a Markov chain: it does not begin with {MAGIC.decode().strip()!r}")
    line, _, _ = source.read(len(MAGIC), _MOST_FACTS_BYTES).partition(b"\n")
    try:
        return msgspec.json.decode(line, type=Facts)
    except msgspec.MsgspecError as error:
        raise InvalidModelFile(f"{source.name}: {error}") from error


def _count(table: defaultdict[str, Counter[str]], sentence: Sequence[str], word: str, order: int) -> None:
    if not sentence:
        table[""][word] += 1
    for length in range(1, min(order, len(sentence)) + 1):
        table[" ".join(sentence[-length:])][word] += 1
