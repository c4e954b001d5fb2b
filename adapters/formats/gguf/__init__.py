"""GGUF, llama.cpp's model file: its header, read without native code."""

from corral.adapters.formats.gguf.reader import GgufReader

__all__ = ("GgufReader",)
