"""A sound converter, and converters that break one promise each: they show that `ConverterContract` sees it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from corral.core.error_translation import map_errors
from corral.core.errors import InvalidModelFile
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.converters import ConvertedFile, ConverterSpec, ConvertRequest, ConvertResult
from corral.core.specs.engines import Match

__all__ = ("CONVERTERS", "REFUSED", "SoundConverter")

REFUSED = (b"",)
"""What each of these converters must refuse."""


class SoundConverter:
    """A converter that keeps every promise: it writes a text in capital letters."""

    breaks: ClassVar[str | None] = None
    """The test that fails with this converter, and no other does."""

    @classmethod
    def convert(cls, request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult:
        source, folder = Path(request.files[0].path), Path(request.folder)
        text = cls.text_of(source)
        on_progress(0.5)
        (folder / "loud").write_text(text.upper(), encoding="utf-8")
        on_progress(1.0)
        return ConvertResult(files=(ConvertedFile(path="loud"),), format="loud")

    @classmethod
    def text_of(cls, source: Path) -> str:
        with map_errors({OSError: InvalidModelFile, UnicodeError: InvalidModelFile}, source.name):
            text = source.read_text(encoding="utf-8")
        if not text:
            raise InvalidModelFile(f"{source.name} is empty")
        return text

    @classmethod
    def spec(cls) -> ConverterSpec:
        return ConverterSpec(
            name="loud",
            summary="capital letters, for tests of the kit",
            convert=f"{__name__}:{cls.__name__}.convert",
            match=lambda model, metadata: Match(score=0, reason="only for tests of the kit"),
        )


class EmptyConverter(SoundConverter):
    """Writes an empty file."""

    breaks = "test_it_says_what_it_wrote"

    @classmethod
    def convert(cls, request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult:
        result = super().convert(request, on_progress)
        (Path(request.folder) / "loud").write_bytes(b"")
        return result


class UntidyConverter(SoundConverter):
    """Leaves a file that its result does not name."""

    breaks = "test_nothing_else_is_left"

    @classmethod
    def convert(cls, request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult:
        (Path(request.folder) / "loud.part").write_bytes(b"half of it")
        return super().convert(request, on_progress)


class WaveringConverter(SoundConverter):
    """Begins again when it has finished."""

    breaks = "test_it_tells_how_far_it_is"

    @classmethod
    def convert(cls, request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult:
        result = super().convert(request, on_progress)
        on_progress(0.0)
        return result


class SigningConverter(SoundConverter):
    """Marks the models that it has converted."""

    breaks = "test_the_model_stays_as_it_was"

    @classmethod
    def convert(cls, request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult:
        result = super().convert(request, on_progress)
        os.utime(request.files[0].path, ns=(0, 0))
        return result


class SulkingConverter(SoundConverter):
    """Empties the model's file if anything goes wrong."""

    breaks = "test_a_conversion_that_breaks_off"

    @classmethod
    def convert(cls, request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult:
        try:
            return super().convert(request, on_progress)
        except BaseException:
            Path(request.files[0].path).write_bytes(b"")
            raise


class StartledConverter(SoundConverter):
    """Raises Python's own exception for what is no text."""

    breaks = "test_a_file_of_another_kind"

    @classmethod
    def text_of(cls, source: Path) -> str:
        with suppress(InvalidModelFile):
            return super().text_of(source)
        if not source.stat().st_size:
            raise InvalidModelFile(f"{source.name} is empty")
        return source.read_text(encoding="utf-8")


class CredulousConverter(SoundConverter):
    """Converts what it should refuse."""

    breaks = "test_what_must_be_refused"

    @classmethod
    def text_of(cls, source: Path) -> str:
        return super().text_of(source) if source.stat().st_size else "nothing"


CONVERTERS: tuple[type[SoundConverter], ...] = (
    EmptyConverter,
    UntidyConverter,
    WaveringConverter,
    SigningConverter,
    SulkingConverter,
    StartledConverter,
    CredulousConverter,
)
"""The broken converters."""
