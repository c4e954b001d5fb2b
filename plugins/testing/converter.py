"""The suite every converter must pass: `ConverterContract`, with one conversion for all its tests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import msgspec
import pytest

from corral.core.errors import CorralError
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.converters import ConverterSpec, ConvertRequest, ConvertResult
from corral.core.specs.engines import LocalFile
from corral.core.specs.imports import import_name

__all__ = ("Conversion", "ConverterContract")

_FOREIGN = {
    "empty": b"",
    "magic": b"GGUF",
    "text": b"not a model at all\n" * 100,
    "zeros": bytes(5000),
    "not UTF-8": b"\xff\xfe\xfd" * 9,
}


class _Convert(Protocol):
    def __call__(self, request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult: ...


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion, the folder it wrote to, the progress that it reported, and the model's files
    (size and time of each) before it and after it.
    """

    result: ConvertResult
    folder: Path
    told: tuple[float, ...]
    before: Sequence[tuple[int, int]]
    after: Sequence[tuple[int, int]]


class _BrokenOff(Exception):
    """Ends a conversion when it reports progress."""


class ConverterContract:
    """Subclass it, set `spec`, and give the fixture `files`: those of a model that the converter accepts.

    `refused` are the contents of weights files that the converter must refuse. The converter runs in this process.
    """

    spec: ClassVar[ConverterSpec]
    refused: ClassVar[Sequence[bytes]] = ()

    @pytest.fixture
    def files(self) -> tuple[LocalFile, ...]:
        raise NotImplementedError("give a fixture called files")

    @pytest.fixture(scope="class")
    @classmethod
    def _kept(cls) -> list[Conversion]:
        return []

    @pytest.fixture
    def conversion(
        self, files: tuple[LocalFile, ...], _kept: list[Conversion], tmp_path_factory: pytest.TempPathFactory
    ) -> Conversion:
        if not _kept:
            folder, told, before = tmp_path_factory.mktemp("converted"), list[float](), _states(files)
            result = self._convert(files, folder, told.append)
            _kept.append(Conversion(result, folder, tuple(told), before, _states(files)))
        return _kept[0]

    @classmethod
    def _convert(cls, files: tuple[LocalFile, ...], folder: Path, on_progress: OnLoadProgress) -> ConvertResult:
        parameters = {} if cls.spec.parameters is None else msgspec.to_builtins(cls.spec.parameters())
        convert: _Convert = import_name(cls.spec.convert)
        request = ConvertRequest(model="kit:latest", files=files, folder=str(folder), parameters=parameters)
        return convert(request, on_progress)

    def test_it_says_what_it_wrote(self, conversion: Conversion) -> None:
        """Each file that the result names is in the folder, is not a link and not empty; some of them are weights."""
        assert conversion.result.format
        assert "weights" in [file.role for file in conversion.result.files]
        paths = [file.path for file in conversion.result.files]
        assert len(set(paths)) == len(paths)
        for path in paths:
            file = conversion.folder / path
            assert file.resolve().is_relative_to(conversion.folder.resolve())
            assert file.is_file()
            assert not file.is_symlink()
            assert file.stat().st_size > 0

    def test_nothing_else_is_left(self, conversion: Conversion) -> None:
        """The folder contains what the result names, and no temporary files."""
        left = {
            file.relative_to(conversion.folder).as_posix() for file in conversion.folder.rglob("*") if file.is_file()
        }
        assert left == {file.path for file in conversion.result.files}

    def test_it_tells_how_far_it_is(self, conversion: Conversion) -> None:
        """Progress goes from 0 to 1 and never decreases."""
        assert conversion.told
        assert all(0.0 <= share <= 1.0 for share in conversion.told)
        assert list(conversion.told) == sorted(conversion.told)

    def test_the_model_stays_as_it_was(self, conversion: Conversion) -> None:
        """The model's files are only read."""
        assert conversion.after == conversion.before

    def test_a_conversion_that_breaks_off(self, files: tuple[LocalFile, ...], tmp_path: Path) -> None:
        """The model's files stay as they are if the conversion fails; here, because its progress cannot be reported."""

        def broken_off(share: float) -> None:
            raise _BrokenOff

        before = _states(files)
        with suppress(_BrokenOff, CorralError):
            self._convert(files, tmp_path, broken_off)
        assert _states(files) == before

    @pytest.mark.parametrize("kind", _FOREIGN)
    def test_a_file_of_another_kind(self, tmp_path: Path, kind: str) -> None:
        """It is converted all the same, or refused by a `CorralError` with a message; no other exception is raised."""
        with suppress(CorralError):
            self._convert_content(tmp_path, _FOREIGN[kind])

    def test_what_must_be_refused(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        """The contents in `refused` raise a `CorralError` with a message."""
        if not self.refused:
            pytest.skip("the test class sets no `refused`, so every file may be converted")
        for content in self.refused:
            with pytest.raises(CorralError) as caught:
                self._convert_content(tmp_path_factory.mktemp("refused"), content)
            assert str(caught.value)

    def _convert_content(self, place: Path, content: bytes) -> ConvertResult:
        foreign, folder = place / "foreign", place / "out"
        foreign.write_bytes(content)
        folder.mkdir()
        return self._convert((LocalFile(role="weights", path=str(foreign)),), folder, lambda share: None)


def _states(files: Sequence[LocalFile]) -> Sequence[tuple[int, int]]:
    return [(Path(file.path).stat().st_size, Path(file.path).stat().st_mtime_ns) for file in files]
