"""ONNX Runtime as an engine of embeddings: sentence encoders with their own tokenizer."""

from __future__ import annotations

__all__ = ()
