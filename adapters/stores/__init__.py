"""Where models are kept: blobs, manifests and partial blobs in files of Ollama's layout, or in memory."""
