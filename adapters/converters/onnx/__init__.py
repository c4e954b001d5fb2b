"""Converts GGUF to a folder that ONNX Runtime GenAI runs, without torch or transformers."""
