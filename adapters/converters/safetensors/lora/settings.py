"""Reads ``adapter_config.json`` of PEFT: how strongly each module is changed, and what cannot be converted.

Source: https://huggingface.co/docs/peft (``LoraConfig``), and ``peft/tuners/lora`` for how scales are computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from corral.adapters.converters.safetensors.config import Config
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("LoraSettings",)

_WHERE = "adapter_config.json"
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq")
"""Ways to begin that change the weights of the base as well: the adapter alone does not give the trained model."""
_REFUSED = {
    "use_dora": "DoRA",
    "lora_bias": "biases of the factors",
    "fan_in_fan_out": "transposed weights",
    "layer_replication": "repeated layers",
    "modules_to_save": "modules that were trained as a whole (new tokens, for example)",
    "trainable_token_indices": "tokens that were trained as a whole",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "an activated LoRA",
    "target_parameters": "parameters that belong to no module",
}


class LoraSettings:
    """Raises `InvalidModelFile` for settings that are malformed, and `Unsupported` for a kind of adapter that llama.cpp
    cannot apply, named as PEFT does. `base` is what it was trained for, empty if that is not said; `alpha` the scale of
    most modules times their rank, before `factor` changes it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        config = Config(values, _WHERE)
        kind = config.raw("peft_type")
        if kind != "LORA":
            raise Unsupported(
                f"{_WHERE}: peft_type is {str(kind)[:40]!r}, and only LORA can be applied by an engine",
                "merge the adapter into its model, and create one from that",
            )
        for name, what in _REFUSED.items():
            if config.raw(name):
                raise _unable(f"{name} is {str(config.raw(name))[:40]}: {what}")
        if config.text("bias", "none") != "none":
            raise _unable(f"bias is {config.text('bias')[:40]!r}: biases are changed as well")
        begun = config.raw("init_lora_weights")
        if isinstance(begun, str) and begun.lower().startswith(_CHANGED_BASES):
            raise _unable(f"init_lora_weights is {begun[:40]!r}, so that its base is another model than the original")
        self.base = config.text("base_model_name_or_path", "")
        self.alpha = config.number("lora_alpha", 8.0)
        if not self.alpha:
            raise InvalidModelFile(f"{_WHERE}: lora_alpha is 0, so that the adapter changes nothing", "train it again")
        self._by_root = config.flag("use_rslora", False)
        self._patterns = config.section("alpha_pattern")
        self._alphas = {pattern: self._patterns.number(pattern) for pattern in values.get("alpha_pattern") or {}}

    def factor(self, module: str, rank: int) -> float:
        """What the product of the module's factors is multiplied with, times the rank."""
        alpha = next((alpha for pattern, alpha in self._alphas.items() if _is_of(pattern, module)), self.alpha)
        return alpha * math.sqrt(rank) if self._by_root else alpha


def _is_of(pattern: str, module: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error as error:
        raise InvalidModelFile(f"{_WHERE}: {pattern[:60]!r} in alpha_pattern is no pattern: {error}") from error


def _unable(what: str) -> Unsupported:
    return Unsupported(
        f"{_WHERE}: {what}, which no engine here applies beside the weights",
        "merge the adapter into its model, and create one from that",
    )
