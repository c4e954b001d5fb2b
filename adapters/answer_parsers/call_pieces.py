"""Passes on the arguments of a call while they are read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from corral.adapters.answer_parsers.json_values import decoded
from corral.adapters.answer_parsers.strict_json import StrictJson
from corral.core.requests.outputs import ToolCallPiece

__all__ = ("ArgumentPieces", "CallPieces", "PieceSink")


class PieceSink:
    """Collects the pieces of the call that is being read."""

    def __init__(self) -> None:
        self._name = ""
        self._id: str | None = None
        self._texts: list[str] = []

    def begin(self, name: str, call_id: str | None) -> None:
        self._name, self._id = name, call_id or None

    def add(self, text: str) -> None:
        self._texts.append(text)

    def taken(self) -> ToolCallPiece | None:
        """What has come since the last time."""
        if not self._texts:
            return None
        piece = ToolCallPiece(name=self._name, id=self._id, arguments="".join(self._texts))
        self._name, self._id = "", None
        self._texts.clear()
        return piece


class ArgumentPieces(StrictJson):
    """Watches an object of arguments, and passes it on."""

    def __init__(self, sink: PieceSink, name: str, call_id: str | None) -> None:
        super().__init__()
        self._sink = sink
        self._call = (name, call_id)

    def between(self, text: str, char: str) -> None:
        if not self.last:
            if char != "{":
                raise ValueError("its arguments are not a JSON object")
            self._sink.begin(*self._call)
        super().between(text, char)

    def heard(self, text: str) -> None:
        self._sink.add(text)


class CallPieces(StrictJson):
    """Watches an object that describes a call. Its arguments are passed on if they are an object after the name.

    An object that then names the tool or the arguments once more raises `ValueError`.
    """

    def __init__(
        self, sink: PieceSink, known: Collection[str], *, name_key: str, id_key: str, arguments_keys: Sequence[str]
    ) -> None:
        super().__init__()
        self._sink = sink
        self._known = known
        self._name_key, self._id_key, self._arguments_keys = name_key, id_key, arguments_keys
        self._texts: dict[str, str] = {}
        """The values of the keys so far; empty for what is no text."""

        self._key = ""
        self._string: list[str] = []
        self._begun = False
        self._passing = False
        self._unclear = False

    def between(self, text: str, char: str) -> None:
        begins = char == "{" and self._is_outer and self.last == "key" and self._may_begin()
        super().between(text, char)
        if begins:
            self._begun = self._passing = True
            self._sink.begin(self._texts[self._name_key], self._texts.get(self._id_key))
            self._sink.add(char)
        elif self._passing and self._is_outer:
            self._passing = False

    def inside(self, text: str) -> None:
        if self._is_outer:
            self._string.append(text)
        super().inside(text)

    def ended(self) -> None:
        super().ended()
        if self._is_outer:
            text = decoded(f'"{"".join(self._string)}"')
            self._string.clear()
            if self.last == "key":
                self._key_is(text)
            else:
                self._texts[self._key] = text

    def heard(self, text: str) -> None:
        if self._passing:
            self._sink.add(text)

    @property
    def _is_outer(self) -> bool:
        return len(self.levels) == 1

    def _key_is(self, key: str) -> None:
        is_arguments = key in self._arguments_keys
        if self._begun and (is_arguments or key in (self._name_key, "function")):
            raise ValueError(f"it has {key!r} after its arguments")
        self._unclear |= key == "function" or (
            is_arguments and any(map(self._texts.__contains__, self._arguments_keys))
        )
        self._texts[key], self._key = "", key

    def _may_begin(self) -> bool:
        named = self._texts.get(self._name_key) in self._known
        return named and self._key in self._arguments_keys and not (self._unclear or self._begun)
