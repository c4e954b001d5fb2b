"""The job that quantizes a GGUF file: calls llama.cpp's quantizer, and reads its progress and its errors from its log.

Called in a process of its own, since the quantizer cannot be stopped otherwise.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any

import llama_cpp as C
import msgspec

from corral.adapters.engine_kit.thread_counts import threads_for
from corral.adapters.engines.llama_cpp.native_log import collect_log
from corral.adapters.engines.llama_cpp.quantizing.importance_matrix import NativeMatrix, read_importance_matrix
from corral.adapters.engines.llama_cpp.quantizing.spec import QuantizeParameters
from corral.adapters.formats.gguf.reader import GgufReader
from corral.adapters.formats.gguf.tables import FILE_TYPES
from corral.adapters.system.files import storage_errors
from corral.core.errors import InvalidModelFile, InvalidRequest, JobFailed, OutOfSpace, Unsupported
from corral.core.models.quantization_types import missing_matrix, needs_matrix
from corral.core.ports.runners import OnLoadProgress
from corral.core.random_access import RandomAccessFile
from corral.core.specs.converters import ConvertedFile, ConvertRequest, ConvertResult

__all__ = ("quantize",)

_FILE = "model.gguf"
_FILE_TYPE_NUMBERS = {name: number for number, name in FILE_TYPES.items()}
_ROWS_AT_ONCE_BYTES = 1 << 30
_TENSOR = re.compile(r"\[ *(\d+)/ *(\d+)\]")  # before the name of each tensor in the log
_ERROR_LEVEL = 4


def quantize(request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult:
    """Writes ``model.gguf`` into the request's folder, on disk when this returns. Memory is bounded by a tensor.

    A file of the role ``other`` is an importance matrix. Raises `InvalidRequest` for a type that needs one,
    `InvalidModelFile`, `Unsupported` for what llama.cpp cannot quantize, `OutOfSpace`, `StorageError`, and `JobFailed`.
    """
    parameters = msgspec.convert(request.parameters, QuantizeParameters)
    path = next((Path(file.path) for file in request.files if file.role == "weights"), None)
    if path is None:
        raise InvalidModelFile(f"model {request.model!r} has no weights file")
    matrix_path = next((Path(file.path) for file in request.files if file.role == "other"), None)
    if matrix_path is None and needs_matrix(parameters.type):
        raise missing_matrix(parameters.type)
    with RandomAccessFile(path) as source:
        GgufReader().read(source)  # raises for a header that native code must not see
    matrix = None if matrix_path is None else NativeMatrix(read_importance_matrix(matrix_path))
    target = Path(request.folder) / _FILE
    _run(request.model, path, target, parameters, matrix, on_progress)
    with storage_errors(f"writing {target}"), target.open("rb+") as file:
        os.fsync(file.fileno())
    with RandomAccessFile(target) as result:
        metadata = GgufReader().read(result)
    return ConvertResult(
        files=(ConvertedFile(path=_FILE),),
        format="gguf",
        quantization=metadata.file_type,
        context_length=metadata.context_length,
        embedding_length=metadata.embedding_length,
    )


def _run(
    model: str,
    source: Path,
    target: Path,
    parameters: QuantizeParameters,
    matrix: NativeMatrix | None,
    on_progress: OnLoadProgress,
) -> None:
    settings = C.llama_model_quantize_default_params()
    settings.ftype = _FILE_TYPE_NUMBERS[parameters.type]
    settings.allow_requantize = parameters.requantize
    settings.nthread = threads_for(0)
    settings.max_buf_size = _ROWS_AT_ONCE_BYTES
    if matrix is not None:
        settings.imatrix = matrix.pointer
    errors: list[str] = []
    stopped: list[BaseException] = []

    @C.llama_log_callback  # type: ignore[untyped-decorator]
    def on_log(level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", "replace")
        if level >= _ERROR_LEVEL and level != 5:  # 5 continues a line
            errors.append(" ".join(line.replace("=", "").split()))
        elif (found := _TENSOR.match(line.strip())) and not stopped:
            try:
                on_progress((int(found[1]) - 1) / max(int(found[2]), 1))
            except BaseException as reason:  # cannot pass through native code, which cannot be stopped either
                stopped.append(reason)

    C.llama_log_set(on_log, ctypes.c_void_p(0))
    try:
        code = C.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(settings))
    finally:
        collect_log()  # before `on_log` is gone
    if stopped:
        raise stopped[0]
    if code != 0:
        raise _failure(model, parameters, " ".join(errors) or "llama.cpp gave no reason")


def _failure(model: str, parameters: QuantizeParameters, said: str) -> Exception:
    if "requantizing from type" in said:
        return InvalidRequest(
            f"{model} is quantized already, and quantizing it again loses quality",
            "quantize the original, or insist with --requantize",
        )
    if "importance matrix" in said or "imatrix" in said:
        return missing_matrix(parameters.type)
    if "No space left" in said or "write error" in said:
        return OutOfSpace(f"quantizing {model} to {parameters.type}: {said}", "free some space")
    if "unknown model architecture" in said or "unsupported" in said.lower() or "failed to quantize" in said:
        return Unsupported(f"llama.cpp cannot quantize {model} to {parameters.type}: {said}")
    return JobFailed(f"quantizing {model} to {parameters.type} failed: {said}")
