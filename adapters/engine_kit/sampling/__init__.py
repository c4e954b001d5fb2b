"""One sampler over logits for every engine that has them: NumPy only, llama.cpp's samplers in llama.cpp's order."""

from corral.adapters.engine_kit.sampling.sampler import LogitsSampler

__all__ = ("LogitsSampler",)
