"""LoRA adapters of PEFT: what their settings mean, and the GGUF that they become."""
