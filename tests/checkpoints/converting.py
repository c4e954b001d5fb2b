"""A checkpoint as llama.cpp has it: converted into a GGUF file, and loaded."""

from __future__ import annotations

from pathlib import Path

from corral.adapters.converters.safetensors.convert import convert
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.core.specs.converters import ConvertRequest
from corral.core.specs.engines import LocalFile

__all__ = ("converted", "loaded")


def converted(checkpoint: Path, folder: Path, kind: str = "F32") -> Path:
    """The GGUF of a checkpoint."""
    folder.mkdir(exist_ok=True)
    files = [
        LocalFile(
            role="weights" if path.suffix == ".safetensors" else "config",
            path=str(path),
            name=path.relative_to(checkpoint).as_posix(),
        )
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    ]
    request = ConvertRequest(model="tiny", files=tuple(files), folder=str(folder), parameters={"type": kind})
    return folder / convert(request, lambda share: None).files[0].path


def loaded(path: Path) -> LlamaModel:
    """The weights, which the caller closes."""
    return LlamaModel(str(path), gpu_layers=0, main_gpu=None, use_mmap=None, on_progress=lambda share: None)
