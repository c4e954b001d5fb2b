"""GGML, the model file before GGUF: one layout for each family of models, and no header that says which."""

from corral.adapters.formats.ggml.reader import GgmlReader

__all__ = ("GgmlReader",)
