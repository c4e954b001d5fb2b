"""Everything that uses onnxruntime_genai: a loaded model, a text that it continues, devices. Translates its errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime
import onnxruntime_genai as og  # `loader` has already disabled its telemetry

from corral.adapters.engines.onnx_genai.folder import ModelFolder
from corral.adapters.system.memory import free_memory
from corral.core.errors import CorralError, EngineError, InvalidModelFile, InvalidOption, LoadFailed, OutOfMemory
from corral.core.specs.engines import Device

__all__ = ("Continuation", "GenAiModel", "find_devices")

_PROVIDERS = {
    "cuda": ("CUDAExecutionProvider", og.is_cuda_available),
    "dml": ("DmlExecutionProvider", og.is_dml_available),
    "openvino": ("OpenVINOExecutionProvider", og.is_openvino_available),
    "qnn": ("QNNExecutionProvider", og.is_qnn_available),
    "webgpu": ("WebGpuExecutionProvider", og.is_webgpu_available),
}
"""Execution providers besides the CPU's: what ONNX Runtime calls them, and whether GenAI was built for them."""


def _providers() -> list[str]:
    """Those that can be used: both libraries must support them."""
    there = onnxruntime.get_available_providers()
    return ["cpu", *(kind for kind, (name, built) in _PROVIDERS.items() if name in there and built())]


def find_devices() -> list[Device]:
    """The CPU with its free memory, and every other provider of this build, whose memory is unknown."""
    free = min(free_memory().values(), default=None)
    others = [Device(kind=kind, name=f"ONNX Runtime {kind}") for kind in _providers() if kind != "cpu"]
    return [Device(kind="cpu", name="CPU", free_bytes=free), *others]


class GenAiModel:
    """A model in memory, its LoRA adapters with it. `device` is the kind that computes ("cpu", "cuda", …)."""

    def __init__(
        self, folder: ModelFolder, *, threads: int, provider: str | None, provider_options: Mapping[str, str]
    ) -> None:
        """Raises `InvalidModelFile`, `InvalidOption`, `OutOfMemory`, `LoadFailed`."""
        provider = None if provider is None else provider.lower()
        if provider is not None and provider not in (found := _providers()):
            raise InvalidOption(
                f"this ONNX Runtime has no execution provider {provider!r}",
                f"it has {', '.join(found)}; other builds of onnxruntime-genai have others",
            )
        try:
            config = og.Config(str(folder.path))
            if provider is not None:
                config.clear_providers()
                if provider != "cpu":
                    config.append_provider(provider)
                for name, value in provider_options.items():
                    config.set_provider_option(provider, name, value)
            session = {"intra_op_num_threads": threads}
            config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
            self._model = og.Model(config)
        except Exception as error:
            raise _load_error(error, folder) from error
        self._adapters = og.Adapters(self._model)
        self._names: list[str] = []
        for path in folder.adapters:
            try:
                self._adapters.load(path, path)
            except Exception as error:
                raise InvalidModelFile(f"model {folder.model!r}: {path} is not a LoRA adapter: {error}") from error
            self._names.append(path)
        self.device = str(self._model.device_type).lower()

    def begin(self, max_length: int) -> Continuation:
        """Create an empty text of up to `max_length` tokens, with its own KV cache.

        Raises `EngineError`, `OutOfMemory`.
        """
        try:
            params = og.GeneratorParams(self._model)
            params.set_search_options(max_length=max_length, batch_size=1, num_beams=1)
            generator = og.Generator(self._model, params)
            for name in self._names:
                generator.set_active_adapter(self._adapters, name)
        except Exception as error:
            raise _run_error(error) from error
        return Continuation(generator)

    def close(self) -> None:
        """Free the weights, once no continuation is left."""
        self._model = self._adapters = None


class Continuation:
    """One text in the model's memory, which is freed with this object."""

    __slots__ = ("_generator", "length")

    def __init__(self, generator: og.Generator) -> None:
        self._generator = generator
        self.length = 0

    def append(self, ids: Sequence[int]) -> None:
        """Compute further tokens. Raises `EngineError`, `OutOfMemory`."""
        try:
            self._generator.append_tokens(np.array(ids, np.int32))
        except Exception as error:
            raise _run_error(error) from error
        self.length += len(ids)

    def rewind(self, length: int) -> None:
        """Drop everything after this many tokens. Raises `EngineError` for models that cannot do this."""
        if length == self.length:
            return
        try:
            self._generator.rewind_to(length)
        except Exception as error:
            raise _run_error(error) from error
        self.length = length

    def logits(self) -> npt.NDArray[np.float32]:
        """The logits after the last token: one row."""
        try:
            rows = self._generator.get_logits()
        except Exception as error:
            raise _run_error(error) from error
        row: npt.NDArray[np.float32] = rows.reshape(-1, rows.shape[-1])[-1].astype(np.float32, copy=False)
        return row


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(
        sign in str(error).lower() for sign in ("bad_alloc", "failed to allocate", "out of memory")
    )


def _run_error(error: Exception) -> CorralError:
    if _out_of_memory(error):
        return OutOfMemory(f"no memory for the KV cache of another request: {error}", "lower num_ctx or num_parallel")
    return EngineError(f"ONNX Runtime GenAI failed: {error}")


def _load_error(error: Exception, folder: ModelFolder) -> CorralError:
    """The library has one class for all errors, which only the text distinguishes."""
    subject = f"ONNX Runtime GenAI cannot load model {folder.model!r} of the type {folder.model_type!r}: {error}"
    if _out_of_memory(error):
        return OutOfMemory(subject)
    if any(sign in str(error).lower() for sign in ("provider", "interface not available")):
        return LoadFailed(
            subject, "set provider to cpu, or install the build of onnxruntime-genai that the model needs"
        )
    return InvalidModelFile(subject)
