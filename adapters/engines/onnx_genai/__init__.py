"""The ONNX Runtime GenAI engine. Only `spec` is imported before a model is loaded."""
