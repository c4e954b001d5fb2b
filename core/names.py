"""Model names, by Ollama's grammar: ``[scheme://][host/][namespace/]model[:tag]``."""

from __future__ import annotations

import re

from corral.core.errors import InvalidName
from corral.core.values import Value

__all__ = ("DEFAULT_HOST", "DEFAULT_NAMESPACE", "DEFAULT_TAG", "ModelName", "parse_name")

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

# First character, then what may follow, then the greatest length of the whole part.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


class ModelName(Value, frozen=True, kw_only=True):
    """A whole name, defaults filled in. Made by `parse_name`, which vouches for the grammar of every part.

    Two names are the same model when their `key` is equal: case does not count, the store keeps the spelling.
    """

    model: str
    tag: str = DEFAULT_TAG
    namespace: str = DEFAULT_NAMESPACE
    host: str = DEFAULT_HOST
    scheme: str = "https"

    @property
    def key(self) -> str:
        return self.full.lower()

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def short(self) -> str:
        """The shortest form that means the same, its tag always shown: ``llama3:latest``, ``hf.co/ns/m:Q4_K_M``."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    def __str__(self) -> str:
        return self.short


def parse_name(text: str) -> ModelName:
    """Reads a name as Ollama does, splitting from the right. Raises `InvalidName`."""
    rest, scheme = text.strip(), "https"
    if "://" in rest:
        scheme, _, rest = rest.partition("://")
    model, tag = rest, DEFAULT_TAG
    if rest.rfind(":") > rest.rfind("/"):
        model, _, tag = rest.rpartition(":")
    parts = model.rsplit("/", 2)
    host, namespace, model = (DEFAULT_HOST, DEFAULT_NAMESPACE, parts[-1])
    if len(parts) > 1:
        namespace = parts[-2]
    if len(parts) > 2:
        host = parts[0]
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
