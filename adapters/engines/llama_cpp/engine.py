"""The llama.cpp `StepEngine`: completions and embeddings over one set of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from corral.adapters.engines.llama_cpp.batching import Completions, Outputs
from corral.adapters.engines.llama_cpp.embedding import LlamaEmbedder
from corral.adapters.engines.llama_cpp.image_encoder import ImageEncoder
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.reader_count import Users
from corral.adapters.engines.llama_cpp.sequences import LlamaSequence
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.core.errors import Unsupported
from corral.core.ports.engines import Prepared
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import TokenMask
from corral.core.requests.outputs import EngineOutput
from corral.core.requests.requests import CompletionRequest, EmbedRequest, Request, RerankRequest

__all__ = ("LlamaCppEngine",)


class LlamaCppEngine:
    """Created by `loader.load`; one thread owns it. `completions` is None for a model that generates no text.

    `info` returns the same object until something has changed.
    """

    def __init__(
        self,
        *,
        model: LlamaModel,
        completions: Completions | None,
        embedder: LlamaEmbedder,
        tokenizer: LlamaTokenizer,
        info: Callable[[], ModelInfo],
        encoder: ImageEncoder | None = None,
    ) -> None:
        self._model = model
        self._completions = completions
        self._embedder = embedder
        self._tokenizer = tokenizer
        self._info = info
        self._encoder = encoder
        self._preparing = Users()

    @property
    def info(self) -> ModelInfo:
        return self._info()

    @property
    def tokenizer(self) -> LlamaTokenizer:
        return self._tokenizer

    def add_request(self, request_id: int, request: Request, mask: TokenMask | None) -> None:
        if isinstance(request, EmbedRequest | RerankRequest):
            self._embedder.add(request_id, request)
        elif isinstance(request, CompletionRequest) and self._completions is not None:
            self._completions.add(request_id, request, mask)
        elif isinstance(request, CompletionRequest):
            raise Unsupported("this model does not generate text: it is an encoder")
        else:
            raise Unsupported(f"llama.cpp does not take a {type(request).__name__}")

    def needs_preparing(self, request: Request) -> bool:
        if self._completions is None or not isinstance(request, CompletionRequest):
            return False
        return self._completions.sequences.takes_long(request)

    def prepare(self, request: Request) -> LlamaSequence:
        assert isinstance(request, CompletionRequest)
        assert self._completions is not None
        with self._preparing.one():
            return self._completions.sequences.make(request)

    def add_prepared(self, request_id: int, prepared: Prepared, mask: TokenMask | None) -> None:
        assert isinstance(prepared, LlamaSequence)
        assert self._completions is not None
        self._completions.add_sequence(request_id, prepared, mask)

    def step(self) -> Sequence[tuple[int, EngineOutput]]:
        outputs: Outputs = []
        if self._completions is not None:
            self._completions.step(outputs)
        self._embedder.step(outputs)
        return outputs

    def idle(self) -> float | None:
        return None if self._completions is None else self._completions.idle()

    def has_unfinished_requests(self) -> bool:
        return (self._completions is not None and self._completions.busy) or self._embedder.busy

    def abort_request(self, request_id: int) -> None:
        if self._completions is None or not self._completions.abort(request_id):
            self._embedder.abort(request_id)

    def close(self) -> None:
        self._preparing.close()
        self._tokenizer.close()
        if self._encoder is not None:
            self._encoder.close()
        self._embedder.close()
        if self._completions is not None:
            self._completions.close()
        self._model.close()
