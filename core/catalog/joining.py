"""Joins the parts of split weights into one file of the store, which every engine, converter and other program reads.

Manifests, Ollama's among them, have one file of weights; so has a model whose weights came in parts.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.part_groups import PartFile, part_groups
from corral.core.errors import InvalidModelFile
from corral.core.models.split_names import parse_part_name
from corral.core.ports.blobs import BlobInfo, BlobStore, BlobWriter
from corral.core.ports.metadata import JoinedRange, JoinedWeights
from corral.core.random_access import RandomAccessFile

__all__ = ("PartJoiner", "parts_in", "siblings_of")

_CHUNK_BYTES = 1024 * 1024

OnBytes = Callable[[int, int], None]
"""Gets how many bytes are written, and how many will be."""


def siblings_of(path: Path) -> tuple[Path, ...]:
    """The parts beside this one that are there, itself among them; only itself if its name is not that of a part.
    Blocking."""
    name = parse_part_name(path.name)
    names = () if name is None else name.siblings
    return tuple(part for one in names if (part := path.with_name(one)).is_file()) or (path,)


def parts_in(folder: Path) -> tuple[Path, ...]:
    """The parts of the only weights in a folder; none if it has other weights too. Blocking."""
    found = sorted(file for file in folder.iterdir() if file.suffix in (".gguf", ".onnx") and file.is_file())
    names = [parse_part_name(file.name) for file in found]
    same = {None if name is None else (name.stem, name.count) for name in names}
    return tuple(found) if len(same) == 1 and None not in same else ()


class PartJoiner:
    """Nothing is written before all headers are read, and fit each other."""

    def __init__(self, *, blobs: BlobStore, inspector: WeightsInspector) -> None:
        self._blobs = blobs
        self._inspector = inspector

    async def groups(self, files: Sequence[PartFile], *, named: bool = True) -> tuple[tuple[PartFile, ...], ...]:
        """Those of the files that are parts, as `part_groups`. Raises also what `WeightsInspector.part` raises."""
        return part_groups([(file, await self._inspector.part(file)) for file in files], named=named)

    async def join(self, parts: Sequence[PartFile], on_bytes: OnBytes) -> BlobInfo:
        """The blob with the weights of all parts, given in their order. No manifest names it yet.

        Its bytes depend on those of the parts alone. Cancelling leaves nothing behind. Raises `InvalidModelFile` for
        parts that do not belong together, `BlobNotFound`, `OutOfSpace`, `StorageError`.
        """
        plan = await self._inspector.joined(parts)
        writer = await self._blobs.begin(None, plan.size_bytes)
        try:
            await self._write(writer, parts, plan, on_bytes)
            return await writer.commit()
        finally:
            await writer.close()

    async def are_parts_of(self, parts: Sequence[PartFile], weights: BlobInfo) -> bool:
        """Whether `join` would give these weights. Nothing is written. Raises as `join`."""
        plan = await self._inspector.joined(parts)
        if plan.size_bytes != weights.size_bytes:
            return False
        found = hashlib.sha256()
        async with aclosing(self._content(parts, plan)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(found.update, chunk)
        return weights.digest == f"sha256:{found.hexdigest()}"

    async def _write(self, writer: BlobWriter, parts: Sequence[PartFile], plan: JoinedWeights, tell: OnBytes) -> None:
        done = 0
        async with aclosing(self._content(parts, plan)) as chunks:
            async for chunk in chunks:
                await writer.write(done, chunk)
                done += len(chunk)
                tell(done, plan.size_bytes)

    async def _content(self, parts: Sequence[PartFile], plan: JoinedWeights) -> AsyncGenerator[bytes, None]:
        """The bytes of the whole."""
        yield plan.header
        for piece in plan.ranges:
            left = piece.end - piece.start
            async with aclosing(self._read(parts[piece.number], piece)) as chunks:
                async for chunk in chunks:
                    yield chunk
                    left -= len(chunk)
            if left:
                raise InvalidModelFile(f"{parts[piece.number].name} changed while it was being read", "try again")
            if piece.padding_bytes:
                yield bytes(piece.padding_bytes)

    async def _read(self, part: PartFile, piece: JoinedRange) -> AsyncGenerator[bytes, None]:
        if isinstance(part.place, Path):
            with RandomAccessFile(part.place) as source:
                for start in range(piece.start, piece.end, _CHUNK_BYTES):
                    length = min(_CHUNK_BYTES, piece.end - start)
                    yield await asyncio.to_thread(source.read, start, length)
        else:
            async with aclosing(self._blobs.read(part.place, piece.start, piece.end)) as chunks:
                async for chunk in chunks:
                    yield chunk
