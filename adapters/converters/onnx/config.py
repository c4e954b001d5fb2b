"""Writes ``genai_config.json``, which tells ONNX Runtime GenAI the model's inputs, outputs and end tokens."""

from __future__ import annotations

from typing import Any

from corral.adapters.converters.onnx.decoder import Decoder, context_length
from corral.adapters.converters.onnx.spec import OnnxParameters
from corral.adapters.converters.onnx.vocabulary import OnnxVocabulary

__all__ = ("genai_config",)


def genai_config(decoder: Decoder, parameters: OnnxParameters, vocabulary: OnnxVocabulary) -> dict[str, Any]:
    """The file's content, as ``onnxruntime_genai.models.builder`` writes it for a CPU."""
    length = context_length(decoder, parameters)
    return {
        "model": {
            "type": decoder.architecture,
            "bos_token_id": vocabulary.bos,
            "eos_token_id": list(vocabulary.ends),
            "pad_token_id": vocabulary.padding,
            "context_length": length,
            "vocab_size": decoder.vocabulary,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "model.onnx",
                "head_size": decoder.head_size,
                "hidden_size": decoder.hidden,
                "num_attention_heads": decoder.heads,
                "num_hidden_layers": decoder.layers,
                "num_key_value_heads": decoder.kv_heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"do_sample": False, "max_length": length, "past_present_share_buffer": True},
    }
