"""Converts checkpoints in safetensors to GGUF, without torch or transformers.

What is registered is in `spec`, the job in `convert`. A family of architectures is a module of `families`; a kind of
tokenizer is a module of `tokenizers`. Names of tensors and keys are those of llama.cpp (``gguf-py/gguf/constants.py``).
"""
