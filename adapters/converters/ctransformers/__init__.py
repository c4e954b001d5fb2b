"""GGUF as ctransformers 0.2.27 reads it: version 2, an SPM table of tokens, an output matrix of its own."""
