"""The upstream engine: models on other servers, which are OpenAI-compatible, Ollama, or Corral."""
