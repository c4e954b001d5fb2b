"""The chat templates of a checkpoint: in a file of their own, or in ``tokenizer_config.json``."""

from __future__ import annotations

from typing import Any

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.core.errors import InvalidModelFile

__all__ = ("chat_template_keys",)

_FILE = "chat_template.jinja"
_JSON_FILE = "chat_template.json"
_KEY = "tokenizer.chat_template"


def chat_template_keys(checkpoint: Checkpoint) -> dict[str, str]:
    """``tokenizer.chat_template``, and ``tokenizer.chat_template.NAME`` for those that have a name.

    A file of its own comes before ``tokenizer_config.json``, as in transformers. Empty if the model has none.
    """
    stated: Any = None
    if checkpoint.has(_FILE):
        stated = _decoded(checkpoint.data(_FILE))
    elif checkpoint.has(_JSON_FILE):
        stated = checkpoint.json(_JSON_FILE).get("chat_template")
    if stated is None:
        stated = checkpoint.optional_json("tokenizer_config.json").get("chat_template")
    if isinstance(stated, str):
        return {_KEY: stated}
    found = {}
    for entry in stated if isinstance(stated, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str):
            name = entry["name"]
            found[_KEY if name == "default" else f"{_KEY}.{name}"] = entry["template"]
    return found


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidModelFile(f"{_FILE} is no text: {error}", "fetch it again") from error
