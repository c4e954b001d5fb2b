"""File formats: manifests (Ollama, ModelPack) and headers of weights (GGUF, GGML)."""
