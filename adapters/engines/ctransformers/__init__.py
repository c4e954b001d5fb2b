"""The ctransformers engine (0.2.27): llama.cpp of September 2023, and model families that llama.cpp did not support
then.
"""
