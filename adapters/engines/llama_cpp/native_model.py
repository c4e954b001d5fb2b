"""The weights of one model in llama.cpp, and what they say of themselves."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp as C

from corral.adapters.engines.llama_cpp.accents import strips_accents
from corral.adapters.engines.llama_cpp.native_adapters import load_adapters
from corral.adapters.engines.llama_cpp.native_file import file_metadata, open_file
from corral.adapters.formats.gguf.header import HeaderFile
from corral.adapters.formats.gguf.pooling import has_classifier
from corral.core.ports.runners import OnLoadProgress
from corral.core.random_access import RandomAccessFile
from corral.core.specs.engines import LocalFile

__all__ = ("LlamaModel", "supports_gpu")


_CELLS_TOGETHER = 256


def supports_gpu() -> bool:
    return bool(C.llama_supports_gpu_offload())


class LlamaModel:
    """Weights and vocabulary, and the adapters that all of its contexts apply. Must be closed after its contexts."""

    def __init__(
        self,
        path: str,
        *,
        gpu_layers: int,
        main_gpu: int | None,
        use_mmap: bool | None,
        repack: bool = True,
        adapters: Sequence[LocalFile] = (),
        on_progress: OnLoadProgress,
    ) -> None:
        params = C.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.use_extra_bufts = repack
        if main_gpu is not None:
            params.main_gpu = main_gpu
            params.split_mode = C.LLAMA_SPLIT_MODE_NONE
        if use_mmap is not None:
            params.load_mode = C.LLAMA_LOAD_MODE_MMAP if use_mmap else C.LLAMA_LOAD_MODE_NONE
        self.handle = open_file(path, params, on_progress)
        try:
            self.adapters = load_adapters(self.handle, adapters)
        except BaseException:
            self.close()
            raise
        self.vocab = C.llama_model_get_vocab(self.handle)
        self.vocabulary_size = int(C.llama_vocab_n_tokens(self.vocab))
        self.strips_accents = strips_accents(int(C.llama_vocab_type(self.vocab)), self.metadata)
        self.trained_context = int(C.llama_model_n_ctx_train(self.handle))
        self.embedding_size = int(C.llama_model_n_embd_out(self.handle))
        self.has_decoder = bool(C.llama_model_has_decoder(self.handle))
        self.sliding_window = int(C.llama_model_n_swa(self.handle))  # 0 if there is none
        self.heads = max(1, int(C.llama_model_n_head(self.handle)))
        usual = int(C.llama_model_n_embd(self.handle)) // self.heads
        self.architecture = architecture = self.metadata("general.architecture") or ""
        self.is_causal = self.metadata(f"{architecture}.attention.causal") != "false"
        self._path = path
        self.pooling = self._pooling()
        self._original_context = self.metadata(f"{architecture}.rope.scaling.original_context_length") or ""
        keys, values = (
            int(self.metadata(f"{architecture}.attention.{kind}_length") or usual) for kind in ("key", "value")
        )
        # llama.cpp's `llama_init_from_model` refuses others.
        latent = self.metadata(f"{architecture}.attention.key_length_mla") is not None
        self.needs_one_kv_type = latent or architecture == "deepseek4"
        layers = int(C.llama_model_n_layer(self.handle))
        self.kv_values_per_token = layers * int(C.llama_model_n_head_kv(self.handle)) * (keys + values)

    @property
    def size_bytes(self) -> int:
        """Of the weights and the adapters."""
        return int(C.llama_model_size(self.handle)) + sum(adapter.size_bytes for adapter in self.adapters)

    @property
    def description(self) -> str:
        text = ctypes.create_string_buffer(128)
        C.llama_model_desc(self.handle, text, len(text))
        return text.value.decode("utf-8", "replace")

    @property
    def details(self) -> dict[str, str]:
        """What it consists of, for people: the type of its weights, and its adapters with their scales if any."""
        adapters = ", ".join(f"{adapter.name} x {adapter.scale:g}" for adapter in self.adapters)
        return {"weights": self.description} | ({"adapters": adapters} if adapters else {})

    def scales_positions(self, cells: int) -> bool:
        """Whether positions may be others in a context of so many cells, which llama.cpp rounds up, than in a small
        one: a model with two sets of rotary factors has the second beyond its original length
        (llama_model::get_rope_factors)."""
        rounded = -(-cells // _CELLS_TOGETHER) * _CELLS_TOGETHER
        return self._original_context.isdigit() and rounded > int(self._original_context)

    @property
    def ranks(self) -> bool:
        """Whether it scores pairs of texts."""
        return self.pooling == int(C.LLAMA_POOLING_TYPE_RANK)

    def chat_template(self, name: str) -> str | None:
        """The template of this name, besides the usual one."""
        text = C.llama_model_chat_template(self.handle, name.encode())
        return None if text is None else text.decode("utf-8", "replace")

    def has_classifier(self) -> bool:
        """Whether there are weights that make a score of a vector. Reads the file: llama.cpp does not tell."""
        with RandomAccessFile(self._path) as source:
            return has_classifier(HeaderFile(source).header())

    def _pooling(self) -> int | None:
        stated = self.metadata(f"{self.architecture}.pooling_type")
        if stated is not None:
            return int(stated)
        return C.LLAMA_POOLING_TYPE_RANK if not self.is_causal and self.has_classifier() else None

    def metadata(self, key: str) -> str | None:
        return file_metadata(self.handle, key)

    def close(self) -> None:
        if self.handle:
            C.llama_model_free(self.handle)
            self.handle = None
