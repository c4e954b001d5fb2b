"""What a model is: names, digests, files, metadata and capabilities."""
