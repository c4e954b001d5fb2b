"""Opens the vocabulary of a GGUF file, for those who only tokenize."""

from __future__ import annotations

import llama_cpp as C

from corral.adapters.engine_kit.vocabulary_engine import VocabularyEngine
from corral.adapters.engines.llama_cpp.native_file import NativeVocabulary
from corral.adapters.engines.llama_cpp.native_log import collect_log
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.core.errors import InvalidModelFile
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import LoadRequest

__all__ = ("open_vocabulary",)


def open_vocabulary(request: LoadRequest, on_progress: OnLoadProgress) -> VocabularyEngine:
    """The same tokenizer as the loaded model's, over the same file."""
    path = next((file.path for file in request.files if file.role == "weights"), None)
    if path is None:
        raise InvalidModelFile(f"model {request.model!r} has no weights file")
    collect_log()
    C.llama_backend_init()
    vocabulary = NativeVocabulary(path, on_progress)
    try:
        tokenizer = LlamaTokenizer(vocabulary)
        control_tokens = tokenizer.control_tokens()
    except BaseException:
        vocabulary.close()
        raise

    def close() -> None:
        tokenizer.close()
        vocabulary.close()

    return VocabularyEngine(
        tokenizer,
        control_tokens=control_tokens,
        longest_token_bytes=tokenizer.longest_token_bytes,
        close=close,
    )
