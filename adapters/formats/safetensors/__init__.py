"""The format of safetensors: files of named tensors behind a header in JSON."""
