"""Finds the images and sounds whose paths are typed into a message, and reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from corral.api.cli.output import echo
from corral.core.errors import InvalidRequest
from corral.core.values import Value

__all__ = ("Attached", "attach", "names_files")

_MOST_FILE_BYTES = 100 * 1024 * 1024
_LONGEST_PATH = 1024
_MOST_LOOKUPS = 500  # for a pasted text full of slashes

_ENDING = re.compile(r"\.(?:jpg|jpeg|png|webp|wav)(?!\w)", re.IGNORECASE)
_DRIVE = r"|[A-Za-z]:[\\/]" if os.name == "nt" else ""
# Not in the middle of another path, a word, or the address of a web page.
_START = re.compile(rf"(?<![\w/\\.:~])(?:['\"]|file://|~/|\.{{1,2}}/|/{_DRIVE})")
_BARE = re.compile(r"(?:\\.|[^\s\\'\"])*" if os.name != "nt" else r"[^\s'\"]*")
_ESCAPE = re.compile(r"\\(.)")


class Attached(Value, frozen=True, kw_only=True):
    """A message without the paths of the files that go with it."""

    text: str
    files: tuple[bytes, ...] = ()


def names_files(text: str) -> bool:
    """Whether the text may name images or sounds."""
    return _ENDING.search(text) is not None


def attach(text: str) -> Attached:
    """Reads the files that the text names, and says so. The path of a missing file stays text, which is said too.

    Paths begin with ``/``, ``./``, ``../``, ``~/`` or ``file://``; in quotes, they may also be a bare file name. Raises
    `InvalidRequest` for a file that cannot be read or is larger than 100 MB.
    """
    files: list[bytes] = []
    kept: list[str] = []
    end = 0
    for start, stop, typed in _named(text):
        path = _path(typed)
        if path is None:
            echo(f"There is no file {typed}, so its name is sent as text.", err=True)
            continue
        files.append(_content(path))
        echo(f"Added {'audio' if path.suffix.lower() == '.wav' else 'image'} '{path}'", err=True)
        kept.append(text[end:start])
        end = stop
    return Attached(text="".join((*kept, text[end:])).strip(), files=tuple(files))


def _named(text: str) -> Iterator[tuple[int, int, str]]:
    """Where each path begins and ends, and how it was typed: existing files, and what can only be meant as one."""
    at = lookups = 0
    while (found := _START.search(text, at)) and lookups < _MOST_LOOKUPS:
        start = at = found.start()
        candidates = list(_candidates(text, start))
        lookups += len(candidates)
        chosen = next((stop for stop in candidates if _path(text[start:stop]) is not None), None)
        if chosen is None and candidates and text[start] not in "'\"" and not _has_space(text[start : candidates[0]]):
            chosen = candidates[0]
        if chosen is None:
            at = start + 1
        else:
            yield start, chosen, text[start:chosen]
            at = chosen


def _candidates(text: str, start: int) -> Iterator[int]:
    """Where a path that begins at `start` may end: at its closing quote, or behind each ending in its line."""
    line_end = text.find("\n", start)
    most = min(len(text) if line_end < 0 else line_end, start + _LONGEST_PATH)
    if text[start] in "'\"":
        closed = text.find(text[start], start + 1, most)
        if closed > 0 and _ENDING.search(text, max(start, closed - 5), closed):
            yield closed + 1
        return
    for ending in _ENDING.finditer(text, start, most):
        yield ending.end()


def _has_space(typed: str) -> bool:
    """Whether it is more than one word, unless the spaces are escaped."""
    return _BARE.fullmatch(typed) is None


def _path(typed: str) -> Path | None:
    """The existing file that is meant; None if there is none."""
    bare = typed[1:-1] if typed[0] in "'\"" else typed
    readings = [bare, _ESCAPE.sub(r"\1", bare)] if os.name != "nt" else [bare]
    if bare.startswith("file://"):
        readings = [unquote(urlsplit(bare).path)]
    for reading in readings:
        try:
            path = Path(reading).expanduser()
            if path.exists():
                return path
        except (OSError, ValueError, RuntimeError):  # too long, with a NUL character, or of an unknown user
            continue
    return None


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InvalidRequest(f"{path} is not a file")
        size_bytes = path.stat().st_size
        if size_bytes > _MOST_FILE_BYTES:
            raise InvalidRequest(f"{path} has {size_bytes} bytes; at most {_MOST_FILE_BYTES} are accepted")
        return path.read_bytes()
    except OSError as fault:
        raise InvalidRequest(f"cannot read {path}: {fault.strerror or fault}") from fault
