"""The interactive chat, driven by scripted lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from corral.api.cli.answers import WordWrapper, print_reply
from corral.api.cli.backends import Asking, Reply, Timings
from corral.api.cli.facts import ModelFacts
from corral.api.cli.history import History
from corral.api.cli.repl import Repl
from corral.core.errors import ModelNotFound, ServerBusy
from corral.core.placement import LoadListener, LoadProgress


class EchoBackend:
    """Answers with what was said last, in capitals, and remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Asking, list[Mapping[str, str]]]] = []
        self.busy = False

    def facts(self, model: str) -> ModelFacts:
        if model == "absent":
            raise ModelNotFound("model 'absent' not found", "pull it")
        return ModelFacts(name=model, architecture="echo", license="one\ntwo\nthree", capabilities=("completion",))

    def models(self) -> list[str]:
        return ["echo:latest", "other:latest"]

    def load(self, asking: Asking, on_progress: LoadListener) -> None:
        on_progress(LoadProgress(stage="loading", share=1.0))

    def chat(self, asking: Asking, messages: Sequence[Mapping[str, str]]) -> Reply:
        self.asked.append((asking, list(messages)))
        if self.busy:
            raise ServerBusy("server busy", "try again")
        yield messages[-1]["content"].upper()
        return Timings(generated_tokens=1)

    def generate(self, asking: Asking, prompt: str) -> Reply:
        yield prompt
        return Timings()

    def embed(self, asking: Asking, text: str) -> Sequence[float]:
        return [1.0]


def script(*lines: str | type[BaseException]) -> Any:
    """What somebody types: lines, and the keys that raise; at the end, Ctrl-D."""
    left: Iterator[str | type[BaseException]] = iter(lines)
    prompts: list[str] = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        line = next(left, EOFError)
        if isinstance(line, str):
            return line
        raise line

    read.prompts = prompts  # type: ignore[attr-defined]
    return read


def chat(*lines: str | type[BaseException]) -> EchoBackend:
    backend = EchoBackend()
    Repl(backend, Asking(model="echo"), read=script(*lines), wrap=False).run()
    return backend


def test_a_conversation_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    """Every question carries what was said before."""
    backend = chat("hello", "again")
    assert capsys.readouterr().out.split() == ["HELLO", "AGAIN"]
    assert [message["content"] for message in backend.asked[1][1]] == ["hello", "HELLO", "again"]


def test_clear_forgets(capsys: pytest.CaptureFixture[str]) -> None:
    """And says so."""
    backend = chat("hello", "/clear", "again")
    assert [message["content"] for message in backend.asked[1][1]] == ["again"]
    assert "Cleared session context" in capsys.readouterr().out


def test_several_lines() -> None:
    """Three quotes begin and end a message; the lines between have another prompt."""
    read = script('"""one', "two", 'three"""', '"""alone"""')
    backend = EchoBackend()
    Repl(backend, Asking(model="echo"), read=read, wrap=False).run()
    assert [asked[1][-1]["content"] for asked in backend.asked] == ["one\ntwo\nthree", "alone"]
    assert read.prompts == [">>> ", "... ", "... ", ">>> ", ">>> "]


def test_the_format_holds_until_it_is_lifted() -> None:
    """``/set format json`` is part of every question from then on; no other format can be set."""
    backend = chat("/set format json", "one", "/set format xml", "two", "/set noformat", "three")
    assert [asked[0].format for asked in backend.asked] == ["json", "json", None]


def test_options_and_system_text(capsys: pytest.CaptureFixture[str]) -> None:
    """They hold from then on; a wrong one is told and changes nothing."""
    backend = chat(
        "/set parameter temperature 0.5",
        "/set parameter stop a b",
        "/set parameter top_k many",
        "/set parameter nonsense 1",
        '/set system "be kind"',
        "/set parameter",
        "hello",
    )
    asking, messages = backend.asked[0]
    assert asking.options == {"temperature": 0.5, "stop": ["a", "b"]}
    assert messages[0] == {"role": "system", "content": "be kind"}
    out, err = capsys.readouterr()
    assert "Set parameter 'temperature' to '0.5'" in out
    assert "Set system message." in out
    assert "temperature                    0.5" in out
    assert "invalid int value [many]" in err
    assert "nonsense" in err


def test_bye_and_the_end_of_input() -> None:
    """Nothing after ``/bye`` is read; Ctrl-D ends it too."""
    assert len(chat("/bye", "hello").asked) == 0
    assert len(chat("hello", "/exit", "again").asked) == 1
    assert len(chat("hello").asked) == 1


def test_ctrl_c_at_the_prompt_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """It says how to leave."""
    assert len(chat(KeyboardInterrupt, "hello").asked) == 1
    assert "Use Ctrl + d or /bye to exit." in capsys.readouterr().out


def test_a_failed_question_is_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    """The error is shown with its remedy, the chat goes on, and the question is not repeated by itself."""
    backend = EchoBackend()
    backend.busy = True

    def recover(prompt: str) -> str:
        backend.busy = False
        return "again"

    lines = iter([lambda _: "hello", recover])

    def read(prompt: str) -> str:
        try:
            return next(lines)(prompt)
        except StopIteration:
            raise EOFError from None

    Repl(backend, Asking(model="echo"), read=read, wrap=False).run()
    assert [message["content"] for message in backend.asked[1][1]] == ["again"]
    out, err = capsys.readouterr()
    assert err == "Error: server busy\ntry again\n"
    assert "AGAIN" in out


def test_load_another_model(capsys: pytest.CaptureFixture[str]) -> None:
    """The conversation begins anew; a model that is not there leaves everything as it was."""
    backend = chat("hello", "/load absent", "/load other", "again")
    assert backend.asked[1][0].model == "other"
    assert len(backend.asked[1][1]) == 1
    out, err = capsys.readouterr()
    assert "Loaded 'other'." in out
    assert "model 'absent' not found" in err


def test_show_list_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command answers something of its own."""
    chat("/show info", "/show license", "/show system", "/show", "/list", "/?", "/? set", "/help shortcuts", "/nosuch")
    out = capsys.readouterr().out
    for text in (
        "architecture        echo",
        "one\ntwo\nthree",
        "No system message was specified",
        "/show template",
        "other:latest",
        "Available Commands:",
        "/set parameter <name>",
        "Stop the answer",
        "Unknown command '/nosuch'. Type /? for help",
    ):
        assert text in out


def test_verbose_and_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """Timings follow an answer while they are wanted."""
    chat("/set verbose", "hello", "/set quiet", "again")
    assert capsys.readouterr().err.count("total duration") == 1


def test_ctrl_c_stops_an_answer() -> None:
    """What was said so far is kept, the request is closed, and there are no timings."""
    closed = []
    written: list[str] = []

    def reply() -> Reply:
        try:
            yield "so far"
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    assert print_reply(reply(), write=written.append) == ("so far", None)
    assert closed
    assert "".join(written) == "so far\n"


@pytest.mark.parametrize(
    ("text", "wrapped"),
    [
        ("one two three four", "one two \nthree four"),
        ("abcdefghijklmnop", "abcdefghij\nklmnop"),
        ("a\n\nb", "a\n\nb"),
        ("12345 12345 ", "12345 \n12345 "),
        ("日本日本日本日本", "日本日本日本日本"),
    ],
)
def test_words_are_wrapped(text: str, wrapped: str) -> None:
    """Between words where there are some, whatever pieces they come in."""
    for size in (1, 3, 100):
        written: list[str] = []
        wrapper = WordWrapper(written.append, columns=10)
        for start in range(0, len(text), size):
            wrapper.feed(text[start : start + size])
        wrapper.end()
        assert "".join(written) == wrapped


def test_history_is_kept_for_its_owner(tmp_path: Any) -> None:
    """The file is readable by nobody else, and not written where history is off."""
    with History(enabled=True, environment={"XDG_STATE_HOME": str(tmp_path)}):
        pass
    file = tmp_path / "corral" / "history"
    assert file.stat().st_mode & 0o077 == 0
    with History(enabled=False, environment={"XDG_STATE_HOME": str(tmp_path / "off")}):
        pass
    assert not (tmp_path / "off").exists()
