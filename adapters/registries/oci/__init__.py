"""Registries that speak the OCI distribution protocol over HTTP: Docker's, Ollama's, a company's own."""
