"""The interactive chat, driven by scripted lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.api.cli.answers import PrintedAnswer, print_reply
from corral.api.cli.attachments import attach
from corral.api.cli.backends import ChatMessages, Reply, RunOptions, Timings
from corral.api.cli.chat_state import ChatState
from corral.api.cli.history import History
from corral.api.cli.model_facts import ModelFacts
from corral.api.cli.repl import Repl
from corral.api.cli.terminal import PlainTerminal
from corral.api.cli.word_wrap import WordWrapper
from corral.api.library.results import Chunk
from corral.core.errors import ModelNotFound, ServerBusy
from corral.core.scheduling.load_progress import LoadListener, LoadProgress


class EchoBackend:
    """Answers with the last message in capitals, and records the requests."""

    def __init__(self) -> None:
        self.asked: list[tuple[RunOptions, list[Mapping[str, Any]]]] = []
        self.busy = False

    def facts(self, model: str) -> ModelFacts:
        if model.removesuffix(":latest") not in ("echo", "other"):
            raise ModelNotFound(f"model '{model}' not found", "pull it")
        return ModelFacts(name=model, architecture="echo", license="one\ntwo\nthree", capabilities=("completion",))

    def models(self) -> list[str]:
        return ["echo:latest", "other:latest"]

    def load(self, run_options: RunOptions, on_progress: LoadListener) -> None:
        on_progress(LoadProgress(stage="loading", share=1.0))

    def chat(self, run_options: RunOptions, messages: ChatMessages) -> Reply:
        self.asked.append((run_options, list(messages)))
        if self.busy:
            raise ServerBusy("server busy", "try again")
        yield Chunk(text=messages[-1]["content"].upper())
        return Timings(generated_tokens=1)

    def generate(self, run_options: RunOptions, prompt: str, images: Sequence[bytes] = ()) -> Reply:
        yield Chunk(text=prompt)
        return Timings()

    def embed(self, run_options: RunOptions, text: str) -> Sequence[float]:
        return [1.0]


def script(*lines: str | type[BaseException]) -> Any:
    """Typed input: lines, keys that raise an exception, and Ctrl-D at the end."""
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


def save(name: str, state: ChatState) -> None:
    """For chats that save nothing."""
    raise AssertionError(name)


def chat(*lines: str | type[BaseException]) -> EchoBackend:
    backend = EchoBackend()
    Repl(backend, RunOptions(model="echo"), terminal=PlainTerminal(script(*lines)), save=save, wrap=False).run()
    return backend


def test_a_conversation_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    """Every question is sent with the conversation so far."""
    backend = chat("hello", "again")
    assert capsys.readouterr().out.split() == ["HELLO", "AGAIN"]
    assert [message["content"] for message in backend.asked[1][1]] == ["hello", "HELLO", "again"]


def test_clear_forgets(capsys: pytest.CaptureFixture[str]) -> None:
    """And says so."""
    backend = chat("hello", "/clear", "again")
    assert [message["content"] for message in backend.asked[1][1]] == ["again"]
    assert "Cleared session context" in capsys.readouterr().out


def test_several_lines() -> None:
    """Three quotes begin and end a message; the lines in between have another prompt."""
    read = script('"""one', "two", 'three"""', '"""alone"""')
    backend = EchoBackend()
    Repl(backend, RunOptions(model="echo"), terminal=PlainTerminal(read), save=save, wrap=False).run()
    assert [asked[1][-1]["content"] for asked in backend.asked] == ["one\ntwo\nthree", "alone"]
    assert read.prompts == [">>> ", "... ", "... ", ">>> ", ">>> "]


def test_the_format_holds_until_it_is_lifted() -> None:
    """``/set format json`` is part of every question from then on; no other format can be set."""
    backend = chat("/set format json", "one", "/set format xml", "two", "/set noformat", "three")
    assert [asked[0].format for asked in backend.asked] == ["json", "json", None]


def test_options_and_system_text(capsys: pytest.CaptureFixture[str]) -> None:
    """They apply from then on; a wrong one is reported and changes nothing."""
    backend = chat(
        "/set parameter temperature 0.5",
        "/set parameter stop a b",
        "/set parameter top_k many",
        "/set parameter nonsense 1",
        '/set system "be kind"',
        "/set parameter",
        "hello",
    )
    run_options, messages = backend.asked[0]
    assert run_options.options == {"temperature": 0.5, "stop": ["a", "b"]}
    assert messages[0] == {"role": "system", "content": "be kind"}
    out, err = capsys.readouterr()
    assert "Set parameter 'temperature' to '0.5'" in out
    assert "Set system message." in out
    assert "temperature                    0.5\nstop                           a, b\n" in out
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
    """The error is shown with its remedy, the chat continues, and the question is not repeated automatically."""
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

    Repl(backend, RunOptions(model="echo"), terminal=PlainTerminal(read), save=save, wrap=False).run()
    assert [message["content"] for message in backend.asked[1][1]] == ["again"]
    out, err = capsys.readouterr()
    assert err.endswith("Error: server busy\ntry again\n")
    assert "AGAIN" in out


def test_load_another_model(capsys: pytest.CaptureFixture[str]) -> None:
    """The conversation starts over; an unknown model changes nothing, and the beginning of a name is enough."""
    backend = chat("hello", "/load absent", "/load other", "again", "/load ech", "first")
    assert [asked[0].model for asked in backend.asked] == ["echo", "other", "echo:latest"]
    assert [len(asked[1]) for asked in backend.asked] == [1, 1, 1]
    out, err = capsys.readouterr()
    assert "Loaded 'other'." in out
    assert "model 'absent' not found" in err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("/shwo info", "Unknown command '/shwo'. Did you mean '/show'? Type /? for help"),
        ("/nosuch", "Unknown command '/nosuch'. Type /? for help"),
        ("/byee", "Did you mean '/bye'?"),
        ("/bye now", "'/bye' takes no value, but got 'now'."),
        ("/", "Unknown command '/'."),
        ("/set foo", "Unknown command '/set foo'.\nAvailable Commands:\n  /set parameter"),
        ("/set wordwarp", "Unknown command '/set wordwarp'. Did you mean '/set wordwrap'?"),
        ("/set temperature 0.2", "Unknown command '/set temperature'. Did you mean '/set parameter temperature 0.2'?"),
        ("/set verbose loudly", "'/set verbose' takes no value, but got 'loudly'."),
        ("/set system", "'/set system' needs a value.\nAvailable Commands:"),
        ("/set format", "'/set format' needs a value.\nAvailable Commands:"),
        ("/set format xml", "Unknown format 'xml'. The only format is 'json'."),
        ("/set", "Available Commands:\n  /set parameter"),
        ("/set parameter nonsense 1", "unknown parameter 'nonsense'\nknown parameters: temperature"),
        ("/set parameter temprature 1", "unknown parameter 'temprature'\ndid you mean temperature?"),
        ("/set parameter temperature", "parameter 'temperature' has no value"),
        ("/show x", "Unknown command '/show x'.\nAvailable Commands:\n  /show info"),
        ("/show licence", "Unknown command '/show licence'. Did you mean '/show license'?"),
        ("/show info all", "'/show info' takes no value, but got 'all'."),
        ("/load absent", "model 'absent' not found\npull it"),
        ("/load othr", "model 'othr' not found\ndid you mean other:latest?"),
        ("/load", "Name a model: /load <model>. Available models:\necho:latest\nother:latest"),
        ("/clear all", "'/clear' takes no value, but got 'all'."),
        ("/list z", "No model name begins with 'z'."),
        ("/? foo", "There is no help for 'foo'.\nAvailable Commands:"),
        ("/? sett", "There is no help for 'sett'. Did you mean '/? set'?"),
    ],
)
def test_what_is_unknown_is_said(typed: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown command gets the closest one, or the help; no model is asked."""
    backend = chat(typed)
    assert not backend.asked
    out, err = capsys.readouterr()
    assert said in out + err


def test_a_path_in_a_paste_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Several lines that begin with a slash are a message, unless the first word is a command."""
    backend = chat("/usr/bin/cc: error\nstop", "/set system be\nkind", "hello")
    assert [asked[1][-1]["content"] for asked in backend.asked] == ["/usr/bin/cc: error\nstop", "hello"]
    assert backend.asked[1][1][0] == {"role": "system", "content": "be\nkind"}


def test_a_question_that_was_stopped_before_its_answer_is_forgotten() -> None:
    """A question whose answer had begun is kept, with that part of the answer."""

    class Stopped(EchoBackend):
        def chat(self, run_options: RunOptions, messages: ChatMessages) -> Reply:
            self.asked.append((run_options, list(messages)))
            if messages[-1]["content"] == "early":
                raise KeyboardInterrupt
            yield Chunk(text="begun")
            raise KeyboardInterrupt

    backend = Stopped()
    terminal = PlainTerminal(script("early", "late", "last"))
    Repl(backend, RunOptions(model="echo"), terminal=terminal, save=save, wrap=False).run()
    assert [message["content"] for message in backend.asked[-1][1]] == ["late", "begun", "last"]


def test_show_list_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command has its own reply."""
    chat("/show info", "/show license", "/show system", "/show", "/list", "/?", "/? set", "/help shortcuts", "/nosuch")
    out = capsys.readouterr().out
    for text in (
        "architecture    echo",
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
    """Timings follow each answer while they are switched on."""
    chat("/set verbose", "hello", "/set quiet", "again")
    assert capsys.readouterr().err.count("total duration") == 1


def test_ctrl_c_stops_an_answer() -> None:
    """The text so far is kept, the request is closed, and no timings are shown."""
    closed = []
    written: list[str] = []

    def reply() -> Reply:
        try:
            yield Chunk(text="so far")
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    assert print_reply(reply(), write=written.append) == PrintedAnswer(text="so far")
    assert closed
    assert "".join(written) == "so far\n"


@pytest.mark.parametrize(
    ("text", "wrapped"),
    [
        ("one two three four", "one two \nthree four"),
        ("abcdefghijklmnop", "abcdefghij\nklmnop"),
        ("xx abcdefghijklmnop yy", "xx \nabcdefghij\nklmnop yy"),
        ("a\n\nb", "a\n\nb"),
        ("12345 12345 ", "12345 \n12345 "),
        ("a\tb\tc", "a\tb\nc"),
        # Wide characters take two cells.
        ("日本日本日本日本", "日本日本日\n本日本"),
        ("日本語 日本語 日本語", "日本語 \n日本語 \n日本語"),
        ("今日は、世界。これは長い文章です", "今日は、世\n界。これは\n長い文章で\nす"),
        ("使用Python语言编写程序", "使用Python\n语言编写程\n序"),
        ("「一二三」「四五六」", "「一二三」\n「四五六」"),
        ("안녕하세요 세계 안녕하세요", "안녕하세요 \n세계 \n안녕하세요"),
        # Marks and joined pictures stay with what they belong to.
        ("cafe\u0301 cafe\u0301 cafe\u0301", "cafe\u0301 cafe\u0301 \ncafe\u0301"),
        ("🇩🇪🇫🇷🇩🇪🇫🇷🇩🇪🇫🇷", "🇩🇪🇫🇷🇩🇪🇫🇷🇩🇪\n🇫🇷"),
        ("👩\u200d🚀👩\u200d🚀👩\u200d🚀", "👩\u200d🚀👩\u200d🚀\n👩\u200d🚀"),
        ("❤\ufe0f❤\ufe0f❤\ufe0f❤\ufe0f❤\ufe0f❤\ufe0f", "❤\ufe0f❤\ufe0f❤\ufe0f❤\ufe0f❤\ufe0f\n❤\ufe0f"),
    ],
)
def test_words_are_wrapped(text: str, wrapped: str) -> None:
    """Lines are wrapped by cells, between words if possible, however the text is split into pieces."""
    for size in (1, 3, 100):
        written: list[str] = []
        wrapper = WordWrapper(written.append, columns=10)
        for start in range(0, len(text), size):
            wrapper.feed(text[start : start + size])
        wrapper.end()
        assert "".join(written).replace(" \n", "\n") == wrapped.replace(" \n", "\n")


def test_long_text_without_spaces_is_not_held_back() -> None:
    """Chinese and Japanese appear as they arrive, one character behind; so does a word too long for any line."""
    for text in ("日本" * 50, "x" * 200):
        written: list[str] = []
        wrapper = WordWrapper(written.append, columns=80)
        wrapper.feed(text[:-1])
        before = len("".join(written).replace("\n", ""))
        wrapper.feed(text[-1])
        assert before >= len(text) - 2
        assert len("".join(written).replace("\n", "")) == before + 1


def test_control_characters_of_a_model_reach_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters are shown as escapes, which count with their width when lines are wrapped."""
    written: list[str] = []

    def reply() -> Reply:
        yield Chunk(text="red \x1b[31m ")
        yield Chunk(text="\x1b0;t\x07 \x9b")
        return Timings()

    monkeypatch.setenv("COLUMNS", "12")
    answer = print_reply(reply(), wrap=True, write=written.append)
    assert answer.text == "red \x1b[31m \x1b0;t\x07 \x9b"
    assert "".join(written) == "red \\x1b[31m\n\\x1b0;t\\x07 \n\\u009b\n"


def test_history_is_kept_for_its_owner(tmp_path: Path) -> None:
    """Each entry is written at once, with all its lines, readable only by the user, and not while history is off."""
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    history = History(enabled=True, environment=environment)
    typed = ["one", "two\nlines", r"C:\new\table \\n", "日本", "end\\"]
    for text in typed:
        history.append(text)
    history.enabled = False
    history.append("not this")
    file = tmp_path / "corral" / "history"
    assert file.stat().st_mode & 0o077 == 0
    assert History(enabled=True, environment=environment).entries() == typed
    assert History(enabled=False, environment=environment).entries() == []
    file.chmod(0o644)
    History(enabled=True, environment=environment).append("more")
    assert file.stat().st_mode & 0o077 == 0


def test_history_has_bounds(tmp_path: Path) -> None:
    """The number of entries, their bytes, and the length of one are limited: the latest entries stay."""
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    history = History(enabled=True, environment=environment)
    history.append("x" * 100_000)
    file = tmp_path / "corral" / "history"
    assert not file.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"entry {number}\n" for number in range(5000)))
    assert history.entries() == [f"entry {number}" for number in range(4000, 5000)]
    assert len(file.read_text().splitlines()) == 1000
    file.write_text("".join(f"{number} {'y' * 50_000}\n" for number in range(30)))
    assert [entry.split()[0] for entry in history.entries()] == [str(number) for number in range(10, 30)]
    assert file.stat().st_size < 1 << 20
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_history_that_cannot_be_kept_stops_nobody(tmp_path: Path) -> None:
    """A pipe, a folder or a file in the way of its folder: nothing is remembered, and nothing hangs."""
    (tmp_path / "pipe" / "corral").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe" / "corral" / "history")
    (tmp_path / "folder" / "corral" / "history").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for case in ("pipe", "folder", "file"):
        history = History(enabled=True, environment={"XDG_STATE_HOME": str(tmp_path / case)})
        history.append("one")
        assert history.entries() == []


class ThinkingBackend(EchoBackend):
    """Thinks before it answers, and can see."""

    def facts(self, model: str) -> ModelFacts:
        can = ("completion", "thinking", "vision")
        return ModelFacts(name=model, capabilities=can, messages=({"role": "user", "content": "before"},))

    def chat(self, run_options: RunOptions, messages: ChatMessages) -> Reply:
        self.asked.append((run_options, list(messages)))
        yield Chunk(thinking="\nhm")
        yield Chunk(thinking="m", text="so")
        return Timings()


def thinking_chat(*lines: str, hide_thinking: bool = False) -> ThinkingBackend:
    backend = ThinkingBackend()
    terminal = PlainTerminal(script(*lines))
    repl = Repl(
        backend, RunOptions(model="echo"), terminal=terminal, save=save, wrap=False, hide_thinking=hide_thinking
    )
    repl.run()
    return backend


def test_thinking_is_shown_apart_from_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """It stands between two lines, or is hidden, and stays out of the content of the conversation."""
    for hidden, shown in ((False, "Thinking...\nhmm\n...done thinking.\n\nso\n"), (True, "so\n")):
        backend = thinking_chat("one", "two", hide_thinking=hidden)
        assert capsys.readouterr().out.removeprefix(">>> before\n").startswith(f"{shown}\n{shown}")
        assert backend.asked[1][1][1] == {"role": "assistant", "content": "so", "thinking": "\nhmm"}


def test_wrapped_thinking_comes_before_the_end_of_thinking() -> None:
    """What the wrapping holds back of it is not printed behind the answer."""
    written: list[str] = []

    def reply() -> Reply:
        yield Chunk(thinking="held")
        yield Chunk(text="text")
        return Timings()

    print_reply(reply(), wrap=True, write=written.append)
    assert "".join(written) == "Thinking...\nheld\n...done thinking.\n\ntext\n"


def test_thinking_is_switched(capsys: pytest.CaptureFixture[str]) -> None:
    """On, off or to a level; a wrong level, or a model that cannot think, changes nothing."""
    typed = ("/set think", "a", "/set think low", "b", "/set think lots", "c", "/set nothink", "d")
    assert [asked[0].think for asked in thinking_chat(*typed).asked] == [True, "low", "low", False]
    assert 'invalid think value: "lots"' in capsys.readouterr().err
    assert chat("/set think", "a").asked[0][0].think is None
    assert "'echo' does not support thinking." in capsys.readouterr().out


def test_opening_messages_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """As if they had been typed, but they are not sent: the model has them."""
    assert [len(asked[1]) for asked in thinking_chat("hello").asked] == [1]
    assert capsys.readouterr().out.startswith(">>> before\n")


def test_files_in_a_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Existing files are attached and their paths removed, however they are written; others stay text."""
    (tmp_path / "a b.png").write_bytes(b"png")
    (tmp_path / "c.WAV").write_bytes(b"wav")
    there, escaped = f"{tmp_path}/a b.png", f"{tmp_path}/a\\ b.png"
    address = f"file://{tmp_path}/a%20b.png"
    for typed in (there, escaped, address, f"'{there}'", f'"{there}"'):
        backend = thinking_chat(f"what is {typed} here", f"{tmp_path}/c.WAV?")
        assert backend.asked[0][1][0] == {"role": "user", "content": "what is  here", "images": (b"png",)}, typed
        assert backend.asked[1][1][-1]["images"] == (b"wav",)
    assert f"Added image '{there}'" in capsys.readouterr().err
    for typed in (f"{tmp_path}/none.png", "https://a.de/b.png", "it's b.png", "/x.pngs"):
        assert thinking_chat(f"see {typed}").asked[0][1] == [{"role": "user", "content": f"see {typed}"}]
    assert capsys.readouterr().err.count("There is no file") == 1
    assert chat(f"see {there}").asked[0][1] == [{"role": "user", "content": f"see {there}"}]


def test_a_file_that_is_too_large(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nothing is sent, and the file is named; so is a folder."""
    with (tmp_path / "big.png").open("wb") as file:
        file.truncate(100 * 1024 * 1024 + 1)
    (tmp_path / "folder.png").mkdir()
    assert not thinking_chat(f"see {tmp_path}/big.png", f"see {tmp_path}/folder.png").asked
    err = capsys.readouterr().err
    assert "big.png has 104857601 bytes; at most 104857600 are accepted" in err
    assert "folder.png is not a file" in err


def test_slashes_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long text of slashes is not looked up path by path."""
    looked: list[Path] = []

    def exists(path: Path) -> bool:
        looked.append(path)
        return False

    monkeypatch.setattr(Path, "exists", exists)
    attach(" /a" * 100_000 + " b.png")
    assert len(looked) < 2000
