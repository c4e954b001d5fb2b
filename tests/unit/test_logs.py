"""Log lines have a limited length, and nothing in them reaches a terminal as a command."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from corral.api.cli.logs import set_up_logging
from corral.api.http.request_log import RequestLog
from corral.core.wording.clipping import clipped, clipped_line

HOSTILE = "a\x1b[2Jb\nc\rd\x9be\u202ef\u2028g\x7fh\ud800i\x00"
ESCAPED = r"a\x1b[2Jb\nc\rd\u009be\u202ef\u2028g\u007fh\ud800i\x00"


@pytest.fixture(params=[False, True], ids=["text", "json"])
def as_json(request: pytest.FixtureRequest) -> Any:
    """Logging as a server sets it up, restored afterwards."""
    root, corral = logging.getLogger(), logging.getLogger("corral")
    before = (root.handlers[:], root.level, corral.level)
    yield request.param
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    corral.setLevel(before[2])


def messages(text: str, as_json: bool) -> list[str]:
    return [json.loads(line)["message"] if as_json else line for line in text.splitlines()]


def test_long_text_is_cut_with_its_length() -> None:
    """The length of the omitted part is given; characters that move the cursor or reverse a line are escaped."""
    assert clipped("x" * 10, 10) == "x" * 10
    assert clipped_line("\x1b" + "x" * 999, 10) == r"\x1b" + "x" * 9 + "… (1000 characters)"
    assert clipped_line(HOSTILE) == ESCAPED


def test_a_message_is_one_line_whatever_is_in_it(as_json: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Engine errors, names and paths cannot begin or end a line."""
    set_up_logging("info", as_json=as_json)
    logging.getLogger("corral.test").warning("an engine says: %s", HOSTILE)
    logging.getLogger("corral.test").warning("long: %s", "y" * 1_000_000)
    first, second = messages(capfd.readouterr().err, as_json)
    assert first.endswith("an engine says: " + ESCAPED)
    assert second.endswith("yyy… (1000006 characters)")
    assert len(second) < 5000


def test_a_traceback_is_indented_and_bounded(as_json: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """The text of an exception is untrusted, too."""
    set_up_logging("info", as_json=as_json)
    try:
        raise ValueError("first\n" * 5000 + "2026-01-01 00:00:00 INFO forged \x1b[2J")
    except ValueError:
        logging.getLogger("corral.test").exception("it failed")
    written = capfd.readouterr().err
    assert "\x1b" not in written
    assert len(written) < 50_000
    if as_json:
        [line] = written.splitlines()
        assert "forged \\x1b[2J" in json.loads(line)["exception"]
    else:
        first, *rest = written.splitlines()
        assert first.endswith("it failed")
        assert all(line.startswith("    ") for line in rest)
        assert "lines" in written


def test_a_request_s_line_has_no_more_of_it_than_fits(as_json: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Path, model and error of a request are escaped and cut, in the line and in the fields beside it."""
    set_up_logging("info", as_json=as_json)
    scope: Any = {"path": "/api/" + HOSTILE + "p" * 100_000, "method": "GET", "state": {}}
    log = RequestLog(scope)
    log.status = 404
    log.model = HOSTILE + "m" * 100_000
    log.error = HOSTILE + "e" * 100_000
    log.write()
    [line] = capfd.readouterr().err.splitlines()
    assert len(line) < 5000
    for raw in HOSTILE:
        assert raw.isprintable() or raw not in line
    if as_json:
        assert json.loads(line)["model"].startswith(ESCAPED)
