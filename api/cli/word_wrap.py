"""Wraps lines between words, measured in terminal cells, of which wide characters take two."""

from __future__ import annotations

from collections.abc import Callable

from wcwidth import wcswidth, wcwidth

__all__ = ("WordWrapper", "Write")

Write = Callable[[str], None]

_TAB_CELLS = 8
_LONGEST_SHORT_RUN_CELLS = 16
_ZERO_WIDTH_JOINER = "\u200d"
_EMOJI_STYLE = "\ufe0f"  # makes a narrow symbol a wide emoji
_SKIN_TONES = ("\U0001f3fb", "\U0001f3ff")
_REGIONAL_INDICATORS = ("\U0001f1e6", "\U0001f1ff")  # two of them are a flag

# Scripts without spaces between words: a line may break between any two of these (not Korean, which has spaces).
_IDEOGRAPHIC = (
    ("\u2e80", "\u303f"),
    ("\u3040", "\u312f"),
    ("\u31a0", "\u4dbf"),
    ("\u4e00", "\u9fff"),
    ("\uf900", "\ufaff"),
    ("\uff01", "\uff65"),
    ("\U00020000", "\U0003fffd"),
)
_NEVER_FIRST = frozenset(
    "、。，．・：；？！）］｝〉》」』】〕〗〙〛ー々ゝゞ…‥’”,.;:!?)]}%"
    "ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ"  # small kana
)
_NEVER_LAST = frozenset("（［｛〈《「『【〔〖〘〚‘“([{")


class WordWrapper:
    """Writes text in lines of `columns` cells. Text that may not be divided is held back until its end is known.

    A word that fits into a line is never divided. Chinese and Japanese text is divided between characters unless
    punctuation forbids it, except for short runs between spaces.
    """

    def __init__(self, write: Write, columns: int) -> None:
        self._write = write
        self._columns = columns
        self._ready: list[str] = []
        self._used = 0  # cells used in this line
        self._held: list[str] = []  # characters, each with its combining marks
        self._held_cells = 0
        self._dividing = False  # the text since the last space is too long to be one word
        self._endless = False  # the held text belongs to a word that is longer than a line

    def feed(self, text: str) -> None:
        """Writes at most once."""
        for character in text:
            if character == "\n":
                self._end_run()
                self._end_line()
            elif character in " \t":
                self._end_run()
                self._space(character)
            else:
                self._add(character)
        self._flush()

    def end(self) -> None:
        """Writes the text that is held back."""
        self._end_run()
        self._flush()

    def _flush(self) -> None:
        if self._ready:
            self._write("".join(self._ready))
            self._ready.clear()

    def _add(self, character: str) -> None:
        if self._held and _joins(self._held[-1], character):
            self._held_cells -= _cells(self._held[-1])
            self._held[-1] += character
            self._held_cells += _cells(self._held[-1])
            return
        if self._dividing and self._held:
            if _may_break(self._held[-1], character):
                self._write_word()
                self._endless = False
            elif self._endless:
                self._write_word()
        self._held.append(character)
        self._held_cells += _cells(character)
        if not self._dividing and self._held_cells > _LONGEST_SHORT_RUN_CELLS and any(map(_ideographic, self._held)):
            self._divide()
        elif self._held_cells > self._columns and not self._endless:
            last = self._held.pop()  # a combining mark may follow
            if self._used:
                self._end_line()
            self._dividing = self._endless = True
            self._write_word()
            self._held, self._held_cells = [last], _cells(last)

    def _divide(self) -> None:
        """Writes all words of the held text except the last, whose end is not known yet."""
        run, self._held, self._held_cells, self._dividing = self._held, [], 0, True
        for character in run:
            if self._held and _may_break(self._held[-1], character):
                self._write_word()
            self._held.append(character)
            self._held_cells += _cells(character)

    def _end_run(self) -> None:
        self._write_word()
        self._dividing = self._endless = False

    def _write_word(self) -> None:
        if self._used and self._used + self._held_cells > self._columns and not self._endless:
            self._end_line()
        for character in self._held:
            cells = _cells(character)
            if self._used and self._used + cells > self._columns:
                self._end_line()
            self._ready.append(character)
            self._used += cells
        self._held, self._held_cells = [], 0

    def _space(self, character: str) -> None:
        cells = 1 if character == " " else _TAB_CELLS - self._used % _TAB_CELLS
        if self._used + cells <= self._columns:
            self._ready.append(character)
        self._used = min(self._used + cells, self._columns)

    def _end_line(self) -> None:
        self._ready.append("\n")
        self._used = 0


def _cells(character: str) -> int:
    """The most cells that any terminal uses: some show joined emoji as one, others side by side."""
    single = sum(max(0, wcwidth(part)) for part in character)
    if len(character) == 1:
        return single
    if _within(character[0], _REGIONAL_INDICATORS):
        return 2
    return max(single, wcswidth(character), 2 if _EMOJI_STYLE in character else 0)


def _joins(before: str, character: str) -> bool:
    """Whether a terminal shows `character` joined with the one before it."""
    flag = _within(character, _REGIONAL_INDICATORS) and len(before) == 1 and _within(before, _REGIONAL_INDICATORS)
    return flag or wcwidth(character) == 0 or before.endswith(_ZERO_WIDTH_JOINER) or _within(character, _SKIN_TONES)


def _may_break(before: str, after: str) -> bool:
    return (
        (_ideographic(before) or _ideographic(after)) and after[0] not in _NEVER_FIRST and before[0] not in _NEVER_LAST
    )


def _ideographic(character: str) -> bool:
    return any(_within(character[0], limits) for limits in _IDEOGRAPHIC)


def _within(character: str, limits: tuple[str, str]) -> bool:
    return limits[0] <= character <= limits[1]
