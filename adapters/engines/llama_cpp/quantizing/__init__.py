"""Quantizing GGUF files with llama.cpp's own quantizer: what is registered (`spec`), and the job (`quantize`)."""
