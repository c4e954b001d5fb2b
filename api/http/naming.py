"""Reads model names in requests: trims them, removes source selectors, and checks the grammar."""

from __future__ import annotations

from corral.api.http.errors import ApiError
from corral.core.errors import InvalidName
from corral.core.models.names import ModelName, parse_name

__all__ = ("read_name", "without_selector")


def without_selector(typed: str, *, cloud_text: str = "remote model is unavailable") -> str:
    """The name without ``:local``, which says where a model is rather than which model it is.

    Raises `ApiError` for two selectors, and for ``:cloud`` and ``-cloud``: those models are at ollama.com, which Corral
    never contacts.
    """
    name = typed.strip()
    base, selector = _split(name)
    if selector and _split(base)[1]:
        raise ApiError(400, f'use either :local or :cloud, not both: "{name}"')
    if selector == "cloud":
        read_name(base)
        raise ApiError(403, f"ollama cloud is disabled: {cloud_text}")
    return base


def _split(name: str) -> tuple[str, str]:
    """What is left of a name without its selector, and the selector: ``local``, ``cloud``, or nothing."""
    base, colon, last = name.rpartition(":")
    tag = last.strip().lower()
    if colon and tag in ("local", "cloud"):
        return base, tag
    if colon and tag.endswith("-cloud") and "/" not in tag:
        return f"{base}:{last.strip()[: -len('-cloud')]}", "cloud"
    return name, ""


def read_name(base: str, invalid_text: str = "invalid model name") -> ModelName:
    """Raises `ApiError` 400 with the route's own text for a name outside the grammar."""
    try:
        return parse_name(base)
    except InvalidName as error:
        raise ApiError(400, invalid_text, code=error.code, param="model") from error
