"""Reads the tensors of a checkpoint, in one safetensors file or in several, as NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.adapters.formats.safetensors.header import ELEMENT_BYTES, SafeTensor, read_header
from corral.adapters.formats.safetensors.index import read_index
from corral.core.errors import InvalidModelFile, Unsupported
from corral.core.random_access import RandomAccessFile
from corral.core.regular_files import open_regular

__all__ = ("SafetensorsFiles",)

_NUMBERS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


class SafetensorsFiles:
    """The open files of a checkpoint, used with ``with``. Only what is asked for is in memory.

    `files` are safetensors files by name, and `index` is the ``model.safetensors.index.json`` that belongs to them, or
    None. Reads instead of mapping: if a mapped file is truncated, the process dies. Opening raises `InvalidModelFile`
    for a broken file, a tensor that several files have, and an index that does not match the files. For one thread.
    """

    def __init__(self, files: Mapping[str, Path], index: Path | None = None) -> None:
        self._open = ExitStack()
        self._places: dict[str, tuple[str, SafeTensor]] = {}
        self._files: dict[str, FileIO] = {}
        with ExitStack() as opening:
            opening.push(self._open)
            for file_name, path in files.items():
                with RandomAccessFile(path) as source:
                    source.name = file_name
                    tensors = read_header(source)
                for name, tensor in tensors.items():
                    if name in self._places:
                        raise InvalidModelFile(
                            f"{file_name}: the tensor {name[:100]!r} is in {self._places[name][0]} as well",
                            "remove the files that do not belong to the model",
                        )
                    self._places[name] = file_name, tensor
                self._files[file_name] = self._open.enter_context(_opened(file_name, path))
            if index is not None:
                self._check(index)
            self._open = opening.pop_all()

    def __enter__(self) -> SafetensorsFiles:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, in the order of the files and of their data."""
        return tuple(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """In NumPy's order. Raises `InvalidModelFile` if there is no such tensor."""
        return self._place(name)[1].shape

    def dtype(self, name: str) -> str:
        """``F32``, ``F16`` or ``BF16``. Raises `Unsupported` for any other, `InvalidModelFile` if there is no such
        tensor."""
        file_name, tensor = self._place(name)
        if tensor.dtype not in ELEMENT_BYTES:
            raise Unsupported(
                f"{file_name}: the tensor {name[:100]!r} has the dtype {tensor.dtype}, which is not converted: "
                f"only {', '.join(ELEMENT_BYTES)} are",
                "fetch the model's original, in 16 or 32 bits",
            )
        return tensor.dtype

    def numbers(self, name: str) -> NDArray[Any]:
        """The whole tensor in its shape: float32, float16, or for BF16 its bits as uint16. Raises as `dtype`, and
        `InvalidModelFile` if it cannot be read."""
        dtype = _NUMBERS[self.dtype(name)]
        data: NDArray[Any] = np.empty(self.shape(name), dtype)
        self._read(name, 0, data.reshape(-1))
        return data

    def pieces(self, name: str, most_elements: int) -> Iterator[NDArray[Any]]:
        """All numbers of the tensor in order, as `numbers` has them, in flat pieces of at most `most_elements`."""
        dtype = _NUMBERS[self.dtype(name)]
        count = self._place(name)[1].size_bytes // dtype.itemsize
        for start in range(0, count, most_elements):
            data: NDArray[Any] = np.empty(min(most_elements, count - start), dtype)
            self._read(name, start * dtype.itemsize, data)
            yield data

    def _read(self, name: str, skipped_bytes: int, into: NDArray[Any]) -> None:
        file_name, tensor = self._place(name)
        view = memoryview(into.view(np.uint8).data)
        file = self._files[file_name]
        try:
            file.seek(tensor.offset_bytes + skipped_bytes)
            while view and (count := file.readinto(view)):
                view = view[count:]
        except OSError as error:
            raise InvalidModelFile(f"{file_name}: the tensor {name[:100]!r}: {error.strerror}") from error
        if view:
            raise InvalidModelFile(
                f"{file_name}: the file ends within the tensor {name[:100]!r}: it shrank while being read",
                "fetch the file again",
            )

    def _place(self, name: str) -> tuple[str, SafeTensor]:
        found = self._places.get(name)
        if found is None:
            raise InvalidModelFile(
                f"the checkpoint has no tensor {name[:100]!r}, which its architecture needs",
                "check that all of its files are there",
            )
        return found

    def _check(self, index: Path) -> None:
        """Raises `InvalidModelFile` unless each tensor is in the file that the index names."""
        wanted = read_index(index)
        for name, file_name in wanted.items():
            if file_name not in self._files:
                raise InvalidModelFile(
                    f"{index.name}: the tensor {name[:100]!r} is in {file_name[:100]}, which is missing",
                    "fetch the missing file",
                )
            if name not in self._places or self._places[name][0] != file_name:
                raise InvalidModelFile(
                    f"{index.name}: the tensor {name[:100]!r} is not in {file_name[:100]}",
                    "fetch the index and that file again",
                )


def _opened(file_name: str, path: Path) -> FileIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise InvalidModelFile(f"{file_name}: {error.strerror or error}") from error
