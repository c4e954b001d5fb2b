"""Names the family of a chat template in weights, where it is one of those that many models share.

The names are Ollama's, which reports them when a model is created.
"""

from __future__ import annotations

__all__ = ("template_family",)

_LONGEST = 6000  # characters; templates that do more than write turns have no family
_TOOLS = "tools"

_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("alfred", ("<start_user>", "<start_assistant>")),
    ("starcoder2-instruct", ("exceptionally intelligent coding assistant", "### Instruction")),
    ("magicoder", ("exceptionally intelligent coding assistant", "@@ Instruction")),
    ("openchat", ("GPT4 Correct",)),
    ("codellama-70b-instruct", ("Source: ", "<step>")),
    ("llama2-chat", ("[INST]", "<<SYS>>")),
    ("mistral-instruct", ("[INST]", "[/INST]")),
    ("llama3-instruct", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    ("command-r", ("<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>")),
    ("gemma3-instruct", ("<start_of_turn>", "<start_of_image>")),
    ("gemma-instruct", ("<start_of_turn>", "<end_of_turn>")),
    ("phi-3", ("<|end|>", "<|assistant|>")),
    ("chatml", ("<|im_start|>", "<|im_end|>")),
    ("zephyr", ("<|user|>", "<|assistant|>", "eos_token")),
    ("granite-instruct", ("Question:", "Answer:")),
    ("solar-instruct", ("### System:", "### User:", "### Assistant:")),
    ("alpaca", ("### Instruction:", "### Response:")),
    ("vicuna", ("USER: ", "ASSISTANT:")),
    ("falcon-instruct", ("User: ", "Falcon:")),
    ("chatqa", ("User: ", "Assistant:")),
)
"""What only the templates of a family write; the first family whose marks are all there counts."""

_WITH_TOOLS = frozenset({"llama3-instruct"})
"""Families whose own template has tools; any other template with tools is a model's own."""


def template_family(template: str) -> str | None:
    """The name of the family, None if the template belongs to none."""
    if len(template) > _LONGEST:
        return None
    family = next((name for name, marks in _MARKS if all(mark in template for mark in marks)), None)
    return None if _TOOLS in template and family not in _WITH_TOOLS else family
