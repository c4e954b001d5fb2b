"""A sound answer parser, and parsers that break one promise each: they show that `AnswerParserContract` sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from weakref import WeakSet

from msgspec.structs import replace

from corral.adapters.answer_parsers.think_tags import ThinkTagParser
from corral.core.requests.outputs import Delta
from corral.core.requests.think_tags import ThinkTags

__all__ = ("ANSWERS", "PARSERS", "SoundParser")

_TAGS = ThinkTags(start="<think>", end="</think>")

ANSWERS: Sequence[tuple[str, tuple[str, str, tuple[Any, ...]]]] = (
    ("<think>\nhm, hm\n</think>\n\nYes.", ("hm, hm\n", "Yes.", ())),
    ("\n <think>a < b </thin k></think> <b>c", ("a < b </thin k>", "<b>c", ())),
    ("<think>\n\n</think>\n\nYes <think>no</think>.", ("", "Yes <think>no</think>.", ())),
    (" Yes <think>no</think>.", ("", " Yes <think>no</think>.", ())),
    ("<think>on and on </think", ("on and on </think", "", ())),
)
"""Texts, each with the thinking, the visible text and the calls that a parser must find in it."""


class SoundParser:
    """An `AnswerParser` that keeps every promise."""

    breaks: ClassVar[str | None] = None
    """The test that fails with this parser, and no other does."""

    def __init__(self) -> None:
        self._inner = ThinkTagParser(_TAGS)

    def feed(self, delta: Delta) -> Sequence[Delta]:
        return self._inner.feed(delta)

    def finish(self) -> Sequence[Delta]:
        return self._inner.finish()


class BlindParser(SoundParser):
    """Does not recognize thinking that comes in one delta."""

    breaks = "test_answers_are_read"

    def feed(self, delta: Delta) -> Sequence[Delta]:
        return (delta,) if _TAGS.start in delta.text and _TAGS.end in delta.text else super().feed(delta)


class ShortSightedParser(SoundParser):
    """Does not recognize a tag that is divided between deltas."""

    breaks = "test_the_cuts_do_not_matter"

    def feed(self, delta: Delta) -> Sequence[Delta]:
        heard = super().feed(delta)
        return (*heard, *self.finish())


class SwallowingParser(SoundParser):
    """Loses a character that it does not expect."""

    breaks = "test_plain_text_stays_as_it_is"

    def feed(self, delta: Delta) -> Sequence[Delta]:
        return super().feed(replace(delta, text=delta.text.replace("🦔", "")))


class HoardingParser(SoundParser):
    """Returns visible text only when the answer is over."""

    breaks = "test_plain_text_is_not_held_back"

    def __init__(self) -> None:
        super().__init__()
        self._hoard = ""

    def feed(self, delta: Delta) -> Sequence[Delta]:
        heard = super().feed(delta)
        self._hoard += "".join(one.text for one in heard)
        return tuple(replace(one, text="") for one in heard)

    def finish(self) -> Sequence[Delta]:
        return (Delta(text=self._hoard), *super().finish())


class UncountingParser(SoundParser):
    """Does not count the tokens of thinking."""

    breaks = "test_tokens_and_log_probabilities_are_kept"

    def feed(self, delta: Delta) -> Sequence[Delta]:
        return tuple(replace(one, token_count=0) if one.thinking else one for one in super().feed(delta))


class DeafParser(SoundParser):
    """Drops thinking that the engine has separated."""

    breaks = "test_what_the_engine_has_separated_stays_so"

    def feed(self, delta: Delta) -> Sequence[Delta]:
        return super().feed(replace(delta, thinking=""))


class StartledParser(SoundParser):
    """Fails for an answer that ends in the middle of its opening tag."""

    breaks = "test_an_answer_that_breaks_off"

    def finish(self) -> Sequence[Delta]:
        rest = super().finish()
        if any(one.text for one in rest):
            raise ValueError("the opening tag has no end")
        return rest


class GossipingParser(SoundParser):
    """Behaves differently while another answer is read."""

    breaks = "test_nothing_is_left_from_another_answer"

    _reading: ClassVar[WeakSet[GossipingParser]] = WeakSet()

    def __init__(self) -> None:
        super().__init__()
        self._reading.add(self)

    def feed(self, delta: Delta) -> Sequence[Delta]:
        return super().feed(replace(delta, text=delta.text.upper()) if len(self._reading) > 1 else delta)


PARSERS: tuple[type[SoundParser], ...] = (
    BlindParser,
    ShortSightedParser,
    SwallowingParser,
    HoardingParser,
    UncountingParser,
    DeafParser,
    StartledParser,
    GossipingParser,
)
"""The broken parsers."""
