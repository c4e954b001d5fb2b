"""A fake engine that says what a test has written for a prompt, in the tokens that the test wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from corral.adapters.engines.fake.engine import FakeEngine, _Sequence
from corral.core.errors import ErrorInfo
from corral.core.requests.outputs import EngineFailed, EngineFinished, EngineOutput, Token

__all__ = ("FAILURE", "AnsweringEngine", "Script", "ScriptedEngine")

FAILURE = "the script ends here"


class Script(NamedTuple):
    """The tokens of an answer. One that `fails` ends with an error that says `FAILURE`."""

    pieces: Sequence[bytes]
    fails: bool = False


class ScriptedEngine(FakeEngine):
    """An answer with a constraint is drawn at random, as the fake engine does."""

    def script(self, prompt: str) -> Script:
        """What is said to `prompt`."""
        raise NotImplementedError

    def _generate(self, sequence: _Sequence) -> list[EngineOutput]:
        if sequence.mask is not None:
            return super()._generate(sequence)
        said = self.script(self.tokenizer.decode(sequence.ids[: sequence.prompt_tokens]).decode())
        place = len(sequence.ids) - sequence.prompt_tokens
        sequence.ids.append(0)
        if place < len(said.pieces):
            return [Token(token_id=0, piece=said.pieces[place])]
        if said.fails:
            return [EngineFailed(error=ErrorInfo(code="engine_error", message=FAILURE))]
        return [EngineFinished(reason="stop")]


class AnsweringEngine(ScriptedEngine):
    """Answers with the last of its `answers` whose first text is in the prompt, three bytes at a time."""

    answers: ClassVar[Sequence[tuple[str, str]]] = ()

    def script(self, prompt: str) -> Script:
        data = [answer for text, answer in self.answers if text in prompt][-1].encode()
        return Script([data[at : at + 3] for at in range(0, len(data), 3)])
