"""Converts to GGUF as ctransformers 0.2.27 reads it: version 2, an SPM token table, a separate output matrix."""
