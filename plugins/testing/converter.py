"""The suite every converter must pass: `ConverterContract`, with one conversion for all its tests."""

from __future__ import annotations

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


class _Convert(Protocol):
    def __call__(self, request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult: ...


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion, the folder it wrote to, and the progress that it reported."""

    result: ConvertResult
    folder: Path
    told: tuple[float, ...]


class ConverterContract:
    """Subclass it, set `spec`, and give the fixture `files`: those of a model that the converter accepts.

    The converter runs in this process.
    """

    spec: ClassVar[ConverterSpec]

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
            folder, told = tmp_path_factory.mktemp("converted"), list[float]()
            _kept.append(Conversion(self._convert(files, folder, told.append), folder, tuple(told)))
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

    def test_the_model_stays_as_it_was(
        self, files: tuple[LocalFile, ...], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """The model's files are only read, even if the conversion fails."""
        before = [(Path(file.path).stat().st_size, Path(file.path).stat().st_mtime_ns) for file in files]
        with pytest.raises(CorralError):
            self._convert(files, tmp_path / "absent" / "folder", lambda share: None)
        assert [(Path(file.path).stat().st_size, Path(file.path).stat().st_mtime_ns) for file in files] == before

    @pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all\n" * 100, bytes(5000)])
    def test_a_file_of_another_kind(self, tmp_path: Path, content: bytes) -> None:
        """The error is a `CorralError` with a message, never another exception."""
        foreign, folder = tmp_path / "foreign", tmp_path / "out"
        foreign.write_bytes(content)
        folder.mkdir()
        with pytest.raises(CorralError) as caught:
            self._convert((LocalFile(role="weights", path=str(foreign)),), folder, lambda share: None)
        assert str(caught.value)
