"""Turns checkpoints in safetensors into weights, with the converter that knows their architecture."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from corral.core.catalog.checkpoints import CHECKPOINT_SUFFIX, ConvertedCheckpoint
from corral.core.catalog.create_calls import GivenFiles
from corral.core.conversion.converting import Converting
from corral.core.conversion.results import require_able, typed_parameters
from corral.core.errors import (
    EngineNotInstalled,
    InvalidModelFile,
    InvalidRequest,
    PluginError,
    StorageError,
    Unsupported,
)
from corral.core.malformed import MALFORMED
from corral.core.models.checkpoint_folders import checkpoint_digest
from corral.core.models.digests import Digest
from corral.core.models.model import FileRole, ModelFile, ModelMetadata, StoredModel
from corral.core.models.names import ModelName
from corral.core.models.quantization_types import QuantizationType
from corral.core.ports.blobs import LocalBlobs
from corral.core.ports.runners import OnLoadProgress
from corral.core.regular_files import open_regular, read_regular
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import LocalFile
from corral.core.specs.installation import Installation
from corral.core.wording.pip_lines import install_line

__all__ = ("CheckpointConversion",)

_CONFIG = "config.json"
_CONFIG_LIMIT_BYTES = 16 * 1024 * 1024
_PIECE_BYTES = 8 * 1024 * 1024
_HASHED = 0.15  # the share of the work, if the files have to be hashed
_FLOATS = (QuantizationType.F32, QuantizationType.F16, QuantizationType.BF16)


class _Sizes(msgspec.Struct, frozen=True):
    hidden_size: Any = None


class _Config(_Sizes, frozen=True):
    architectures: tuple[str, ...] = ()
    text_config: _Sizes | None = None


class CheckpointConversion:
    """A `CheckpointConverter`. `settings` are the default parameters by converter."""

    def __init__(
        self,
        *,
        converting: Converting,
        local: LocalBlobs,
        converters: Sequence[ConverterSpec],
        installation: Installation,
        settings: Mapping[str, Mapping[str, Any]] = {},
    ) -> None:
        self._converting = converting
        self._local = local
        self._converters = tuple(converters)
        self._installation = installation
        self._settings = settings

    async def width(self, files: GivenFiles) -> int | None:
        given = files.get(_CONFIG)
        if given is None:
            return None
        async with AsyncExitStack() as stack:
            path = given if isinstance(given, Path) else await stack.enter_async_context(self._local.local(given))
            config = await asyncio.to_thread(_config, path)
        width = (config.text_config or config).hidden_size
        return width if isinstance(width, int) else None

    @asynccontextmanager
    async def converted(
        self, name: ModelName, files: GivenFiles, wanted: QuantizationType | None, on_progress: OnLoadProgress
    ) -> AsyncIterator[ConvertedCheckpoint]:
        async with AsyncExitStack() as stack:
            paths = {
                inside: file if isinstance(file, Path) else await stack.enter_async_context(self._local.local(file))
                for inside, file in files.items()
            }
            architecture = await asyncio.to_thread(_architecture, paths)
            spec = self._spec(architecture)
            weights, hashed = await _weights(files, paths, on_progress)
            record = _record(name, weights, architecture)
            require_able(spec, record, None, self._installation)
            parameters = typed_parameters(spec, self._settings.get(spec.name, {}), _wanted(spec, wanted))
            folder = await stack.enter_async_context(self._local.scratch())
            result = await self._converting.into(
                folder,
                spec,
                record,
                None,
                [LocalFile(role=_role(inside), path=str(path), name=inside) for inside, path in paths.items()],
                parameters,
                lambda share: on_progress(hashed + (1 - hashed) * share),
            )
            if result.format != "gguf" or len(result.files) != 1:
                raise PluginError(
                    f"the {spec.name} converter made {len(result.files)} files in the format {result.format!r} instead "
                    "of one in gguf",
                    "report it to its author",
                )
            yield ConvertedCheckpoint(path=folder / result.files[0].path, source=_source(weights))

    @asynccontextmanager
    async def converted_adapter(
        self, name: ModelName, files: GivenFiles, weights: Digest, on_progress: OnLoadProgress
    ) -> AsyncIterator[Path]:
        spec = next((spec for spec in reversed(self._converters) if spec.convert_adapter is not None), None)
        if spec is None or spec.convert_adapter is None:
            raise Unsupported("no converter here turns adapters in safetensors into GGUF")
        missing = self._installation.missing(spec)
        if missing:
            raise EngineNotInstalled(f"the {spec.name} converter cannot run here: {missing}", install_line(spec))
        async with AsyncExitStack() as stack:
            own = [LocalFile(role="weights", path=str(await stack.enter_async_context(self._local.local(weights))))]
            for inside, file in files.items():
                path = file if isinstance(file, Path) else await stack.enter_async_context(self._local.local(file))
                role: FileRole = "adapter" if inside.endswith(CHECKPOINT_SUFFIX) else "config"
                own.append(LocalFile(role=role, path=str(path), name=inside))
            found, _ = await _weights(files, {file.name: Path(file.path) for file in own if file.name}, _ignore)
            folder = await stack.enter_async_context(self._local.scratch())
            job = msgspec.structs.replace(spec, convert=spec.convert_adapter, estimate=_room_for_adapter)
            record = _record(name, found, "adapter")
            parameters = typed_parameters(spec, self._settings.get(spec.name, {}))
            result = await self._converting.into(
                folder, job, record, None, own, parameters, on_progress, role="adapter"
            )
            yield folder / next(file.path for file in result.files if file.role == "adapter")

    def _spec(self, architecture: str) -> ConverterSpec:
        """The converter of the architecture; of several, the one that was registered last: a plugin's own."""
        for spec in reversed(self._converters):
            if architecture in spec.architectures:
                return spec
        known = sorted({one for spec in self._converters for one in spec.architectures})
        raise Unsupported(
            f'unsupported architecture "{architecture[:100]}"',  # Ollama's text
            f"checkpoints of these can be converted: {', '.join(known) or 'none'}",
        )


def _ignore(share: float) -> None:
    pass


def _room_for_adapter(record: StoredModel, metadata: ModelMetadata | None, parameters: Any) -> Mapping[str, int]:
    """Factors of 16 bits become 32."""
    return {"disk": 2 * record.size_bytes}


def _architecture(paths: Mapping[str, Path]) -> str:
    """The first architecture that ``config.json`` names. Blocking."""
    path = paths.get(_CONFIG)
    if path is None:
        raise InvalidRequest(f"{_CONFIG} is missing", "give the whole folder of the model, with its tokenizer")
    named = _config(path).architectures
    if not named:
        raise InvalidModelFile(f"{_CONFIG} names no architecture", "fetch it again")
    return named[0]


def _config(path: Path) -> _Config:
    """Blocking."""
    try:
        return msgspec.json.decode(read_regular(path, _CONFIG_LIMIT_BYTES), type=_Config)
    except MALFORMED as error:
        raise InvalidModelFile(f"{_CONFIG} is malformed: {error}", "fetch it again") from error
    except OSError as error:
        raise StorageError(f"{_CONFIG}: {error.strerror or error}") from error


async def _weights(
    files: GivenFiles, paths: Mapping[str, Path], on_progress: OnLoadProgress
) -> tuple[Mapping[str, ModelFile], float]:
    """The files of weights by name, and the share of the work that was done to find their digests."""
    names = sorted(name for name in files if name.endswith(CHECKPOINT_SUFFIX))
    sizes = await asyncio.to_thread(lambda: {name: _size(name, paths[name]) for name in names})
    unknown = [name for name in names if isinstance(files[name], Path)]
    total, done, found = max(1, sum(sizes[name] for name in unknown)), 0, {}
    for name in names:
        given = files[name]
        if isinstance(given, Path):

            def report(size_bytes: int) -> None:
                nonlocal done
                done += size_bytes
                on_progress(_HASHED * min(1.0, done / total))

            given = await _hashed(name, given, report)
        found[name] = ModelFile(role="weights", media_type="", digest=given, size_bytes=sizes[name], path=name)
    return found, _HASHED if unknown else 0.0


def _size(name: str, path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise StorageError(f"{name}: {error.strerror or error}") from error


async def _hashed(name: str, path: Path, report: Callable[[int], None]) -> Digest:
    """The digest of a file outside of the store. `report` gets the bytes that were read since its last call."""
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def work() -> Digest:
        found = hashlib.sha256()
        with open_regular(path) as file:
            while not stop.is_set() and (piece := file.read(_PIECE_BYTES)):
                found.update(piece)
                loop.call_soon_threadsafe(report, len(piece))
        return Digest(f"sha256:{found.hexdigest()}")

    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise StorageError(f"{name}: {error.strerror or error}") from error
    finally:
        stop.set()  # the thread goes on if the wait was cancelled


def _source(weights: Mapping[str, ModelFile]) -> Digest:
    return checkpoint_digest({name: file.digest for name, file in weights.items()})


def _record(name: ModelName, weights: Mapping[str, ModelFile], architecture: str) -> StoredModel:
    """The checkpoint as a model, for what a converter asks about it. It is in no store."""
    return StoredModel(
        name=name,
        format="safetensors",
        family=architecture,
        families=(architecture,),
        files=tuple(weights.values()),
        digest=_source(weights),
        size_bytes=sum(file.size_bytes for file in weights.values()),
        modified_at=0.0,
    )


def _wanted(spec: ConverterSpec, wanted: QuantizationType | None) -> Mapping[str, Any]:
    fields = () if spec.parameters is None else [field.encode_name for field in msgspec.structs.fields(spec.parameters)]
    return {"type": wanted} if wanted in _FLOATS and "type" in fields else {}


def _role(name: str) -> FileRole:
    return "weights" if name.endswith(CHECKPOINT_SUFFIX) else "config"
