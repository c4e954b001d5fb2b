"""The architectures that are converted: as ``config.json`` names them, with the import paths of their families.

Imports nothing heavy: the command line reads it to say what can be converted.
"""

from __future__ import annotations

__all__ = ("FAMILIES",)

_PACKAGE = "corral.adapters.converters.safetensors.families"

FAMILIES = {
    "BertForMaskedLM": f"{_PACKAGE}.bert:BERT",
    "BertModel": f"{_PACKAGE}.bert:BERT",
    "Gemma2ForCausalLM": f"{_PACKAGE}.gemma2:GEMMA2",
    "Gemma3ForCausalLM": f"{_PACKAGE}.gemma3:GEMMA3",
    "Gemma3ForConditionalGeneration": f"{_PACKAGE}.gemma3:GEMMA3",
    "LlamaForCausalLM": f"{_PACKAGE}.llama:LLAMA",
    "MistralForCausalLM": f"{_PACKAGE}.llama:LLAMA",
    "Phi3ForCausalLM": f"{_PACKAGE}.phi3:PHI3",
    "Qwen2ForCausalLM": f"{_PACKAGE}.qwen2:QWEN2",
    "Qwen3ForCausalLM": f"{_PACKAGE}.qwen3:QWEN3",
}
"""By the first of the ``architectures`` in ``config.json``."""
