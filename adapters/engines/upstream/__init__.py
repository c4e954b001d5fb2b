"""The upstream engine: models that live behind another server, OpenAI-compatible, Ollama, or another Corral."""
