"""Runs ``pip download`` as a child process and reports its output as progress."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import re
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from corral.core.errors import OutOfSpace, SourceError
from corral.core.ports.sources import FetchProgress, OnProgress
from corral.core.wording.pip_lines import python_line

__all__ = ("download_wheels",)

_LAST_LINES = 6
_TEMPORARY = ("TMPDIR", "TEMP", "TMP")
_RAW_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_LINE_LIMIT_BYTES = 64 * 1024


async def download_wheels(
    requirements: Sequence[str],
    folder: Path,
    on_progress: OnProgress,
    *,
    scratch: Path,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Downloads the wheels of `requirements` into `folder`, without their dependencies, with the user's pip settings.

    `requirements` are ``NAME`` or ``NAME==VERSION``, already checked: pip would take anything else for a path or an
    option. pip keeps its temporary files in `scratch`, and leaves them there if it is killed. Cancelling kills the
    child. Raises `SourceError` with pip's last lines, `OutOfSpace`.
    """
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"),
        *("--disable-pip-version-check", *_progress_options(), "--dest", str(folder), "--", *requirements),
    ]
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,  # empty: no file of the user's can be mistaken for a requirement
            env={
                **(os.environ if environment is None else environment),
                **dict.fromkeys(_TEMPORARY, str(scratch)),
                "PYTHONUNBUFFERED": "1",
            },
            limit=_LINE_LIMIT_BYTES,
        )
    except OSError as error:
        raise SourceError(f"pip could not be started: {error}") from error
    assert child.stdout is not None  # asked for above
    try:
        last_lines = await _report(child.stdout, on_progress)
        status = await child.wait()
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())
    if status:
        said = "\n".join(last_lines)
        subject = f"pip could not download {' '.join(requirements)}"
        if "No space left on device" in said:
            raise OutOfSpace(
                f"{subject}: the disk is full", "free some space, or set TMPDIR to a folder on another disk"
            )
        if "No module named pip" in said:
            raise SourceError(f"{subject}: this Python has no pip", python_line("-m", "ensurepip"))
        raise SourceError(f"{subject} (exit status {status}):\n{said}", "check the name, the version and pip's index")


async def _report(output: asyncio.StreamReader, on_progress: OnProgress) -> list[str]:
    """Reports every line as progress; returns the last ones."""
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)
    doing = "pip download"
    while True:
        try:
            raw = await output.readline()
        except ValueError:  # a line beyond the limit; asyncio has dropped it
            continue
        if not raw:
            return list(last_lines)
        line = raw.decode("utf-8", "replace").strip()
        if found := _RAW_PROGRESS.fullmatch(line):
            on_progress(FetchProgress(status=doing, completed_bytes=int(found[1]), total_bytes=int(found[2]) or None))
        elif line:
            last_lines.append(line)
            doing = line
            on_progress(FetchProgress(status=line))


def _progress_options() -> tuple[str, ...]:
    """pip 24.1 and later can report bytes in a form that programs can read."""
    with suppress(importlib.metadata.PackageNotFoundError, ValueError):
        major, minor = importlib.metadata.version("pip").split(".")[:2]
        if (int(major), int(minor)) >= (24, 1):
            return ("--progress-bar", "raw")
    return ("--progress-bar", "off")
