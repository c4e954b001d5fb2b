"""ctransformers 0.2.27: llama.cpp of September 2023, and the model families that llama.cpp had no place for then."""
