"""Rotary positions: the keys of their base and scaling, and the factors of Llama 3's frequencies.

Source: ``modeling_rope_utils`` of transformers; llama.cpp has the same scalings under ``rope.scaling``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.adapters.converters.safetensors.config import Config
from corral.core.errors import Unsupported

__all__ = ("frequency_factors", "rope_keys", "scaling_of")

_USUAL_BASE = 10000.0


def scaling_of(config: Config) -> tuple[str, Config]:
    """The type of the scaling (``default`` if there is none), and its parameters. Newer configurations have them under
    ``rope_parameters``."""
    section = config.section("rope_parameters" if "rope_parameters" in config else "rope_scaling")
    return section.text("rope_type", section.text("type", "default")), section


def rope_keys(config: Config, head_size: int) -> dict[str, Any]:
    """The keys below ``rope``, without the architecture before them. Raises `Unsupported` for other scalings."""
    kind, scaling = scaling_of(config)
    base = config.number("rope_theta", scaling.number("rope_theta", _USUAL_BASE))
    keys: dict[str, Any] = {
        "rope.dimension_count": int(head_size * config.number("partial_rotary_factor", 1.0)),
        "rope.freq_base": base,
    }
    if kind in ("default", "llama3", "dynamic"):  # dynamic: begins beyond the length that the model was trained for
        return keys
    if kind not in ("linear", "yarn"):
        raise Unsupported(f"the scaling of positions {kind!r} cannot be converted for this architecture")
    keys |= {"rope.scaling.type": kind, "rope.scaling.factor": scaling.number("factor")}
    if kind == "yarn":
        trained = config.count("max_position_embeddings")
        keys["rope.scaling.original_context_length"] = scaling.count("original_max_position_embeddings", trained)
        for name in ("beta_fast", "beta_slow"):
            if name in scaling:
                keys[f"rope.scaling.yarn_{name}"] = scaling.number(name)
        if "attention_factor" in scaling:  # llama.cpp multiplies it by the usual one
            usual = 0.1 * math.log(scaling.number("factor")) + 1
            keys["rope.scaling.attn_factor"] = scaling.number("attention_factor") / usual
    return keys


def frequency_factors(config: Config, head_size: int) -> NDArray[np.float32] | None:
    """What divides each frequency in Llama 3's scaling, as the tensor ``rope_freqs``; None for any other scaling."""
    kind, scaling = scaling_of(config)
    if kind != "llama3":
        return None
    base = config.number("rope_theta", scaling.number("rope_theta", _USUAL_BASE))
    factor = scaling.number("factor")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    trained = float(scaling.count("original_max_position_embeddings"))
    factors = []
    for index in range(0, head_size, 2):
        wavelength = 2 * math.pi * base ** (index / head_size)
        if wavelength < trained / high:
            factors.append(1.0)
        elif wavelength > trained / low:
            factors.append(factor)
        else:
            smooth = (trained / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)
