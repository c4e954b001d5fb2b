"""Model names in Ollama's grammar: ``[scheme://][host/][namespace/]model[:tag]``, and names made from file names."""

from __future__ import annotations

import re

from corral.core.errors import InvalidName
from corral.core.values import Value

__all__ = (
    "DEFAULT_HOST",
    "DEFAULT_NAMESPACE",
    "DEFAULT_TAG",
    "ModelName",
    "name_from_file",
    "parse_name",
    "split_quantization",
)

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

# The first character, the characters that may follow, and the maximum length of the part.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")

# A quantization in a file name, as llama.cpp's tools and model hubs write it: ``.Q4_1``, ``-q4_k_m``, ``_F16``.
_QUANTIZATION = re.compile(r"[._-]((?:i?q|tq|mxfp|nvfp)[1-9][a-z0-9_]*|u?int[48]|b?f16|fp16|fp?32)", re.IGNORECASE)


class ModelName(Value, frozen=True, kw_only=True):
    """A full name, with defaults filled in. Created by `parse_name`, which checks the grammar of every part.

    Two names are the same model if their `key` is equal: case does not matter, but the store keeps the spelling.
    """

    model: str
    tag: str = DEFAULT_TAG
    namespace: str = DEFAULT_NAMESPACE
    host: str = DEFAULT_HOST
    scheme: str = "https"

    @property
    def key(self) -> str:
        """Equal for all spellings of a name; for comparison, not for display."""
        return self.full.lower()

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Host, namespace, model and tag: the four levels of a store."""
        return (self.host, self.namespace, self.model, self.tag)

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def short(self) -> str:
        """The shortest equivalent form, always with its tag: ``llama3:latest``, ``hf.co/ns/m:Q4_K_M``."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    def __str__(self) -> str:
        return self.short


def parse_name(text: str) -> ModelName:
    """Parses a name as Ollama does, splitting from the right. Raises `InvalidName`."""
    model, tag, scheme = text, DEFAULT_TAG, "https"
    if text.rfind(":") > text.rfind("/"):
        model, _, tag = text.rpartition(":")
    parts = model.rsplit("/", 2)
    host, namespace, model = (DEFAULT_HOST, DEFAULT_NAMESPACE, parts[-1])
    if len(parts) > 1:
        namespace = parts[-2]
    if len(parts) > 2:
        host = parts[0]
    if "://" in host:
        scheme, _, host = host.partition("://")
    well_formed = (
        _HOST.fullmatch(host)
        and _NAMESPACE.fullmatch(namespace)
        and _PART.fullmatch(model)
        and _PART.fullmatch(tag)
        and scheme in ("http", "https")
    )
    if not well_formed:
        raise InvalidName(
            f"invalid model name: {text[:100]!r}", "a name is [host/][namespace/]model[:tag] of letters, digits, . _ -"
        )
    return ModelName(model=model, tag=tag, namespace=namespace, host=host, scheme=scheme)


def split_quantization(stem: str) -> tuple[str, str]:
    """A file's stem without the quantization at its end, and the quantization; empty if there is none."""
    found = list(_QUANTIZATION.finditer(stem))
    if found and found[-1].end() == len(stem) and found[-1].start() > 0:
        return stem[: found[-1].start()], found[-1][1]
    return stem, ""


def name_from_file(file_name: str, quantization: str = "") -> ModelName:
    """The default name for a model file: lower case, with the quantization as the tag.

    ``SmolLM2-135M-Instruct.Q4_1.gguf`` becomes ``smollm2-135m-instruct:q4_1``. Without a quantization in the file
    name, the argument is used, or ``latest`` if that is empty too. Characters that are not allowed become ``-``.
    """
    stem, found = split_quantization(re.split(r"[/\\]", file_name)[-1].rpartition(".")[0] or file_name)
    quantization = found or quantization
    return parse_name(f"{_as_part(stem) or 'model'}:{_as_part(quantization) or DEFAULT_TAG}")


def _as_part(text: str) -> str:
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).lstrip(".-")[:80].rstrip(".-")
