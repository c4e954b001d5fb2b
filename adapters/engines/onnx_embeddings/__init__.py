"""The ONNX Runtime embeddings engine: sentence encoders with their own tokenizer."""

from __future__ import annotations

__all__ = ()
