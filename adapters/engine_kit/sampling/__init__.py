"""A sampler for every engine that has logits: llama.cpp's samplers in llama.cpp's order, in NumPy."""

from corral.adapters.engine_kit.sampling.sampler import LogitsSampler

__all__ = ("LogitsSampler",)
