"""Chat templates in Go's template language, as Ollama's manifests carry them."""
