"""One module for each family of architectures that llama.cpp knows."""
