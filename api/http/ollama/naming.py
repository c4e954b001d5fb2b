"""Reads model names in native requests: trims them, removes source selectors, and checks the grammar."""

from __future__ import annotations

from corral.api.http.errors import ApiError
from corral.core.errors import InvalidName
from corral.core.models.names import ModelName, parse_name

__all__ = ("read_name", "without_selector")


def without_selector(typed: str, *, cloud_text: str = "remote model is unavailable") -> str:
    """The name without ``:local``, which says where a model is rather than which model it is.

    Raises `ApiError` for ``:cloud`` and ``-cloud``: those models are at ollama.com, which Corral never contacts.
    """
    name = typed.strip()
    cloud, local = _is_cloud(name), name.lower().endswith(":local")
    base = name[: -len(":local")] if local else name
    if (local and _is_cloud(base)) or (cloud and name.lower().removesuffix(":cloud").endswith(":local")):
        raise ApiError(400, f'use either :local or :cloud, not both: "{typed}"')
    if cloud:
        raise ApiError(403, f"ollama cloud is disabled: {cloud_text}")
    return base


def _is_cloud(name: str) -> bool:
    tag = name.rpartition("/")[2].partition(":")[2].lower()
    return tag == "cloud" or tag.endswith((":cloud", "-cloud"))


def read_name(base: str, invalid_text: str = "invalid model name") -> ModelName:
    """Raises `ApiError` 400 with the route's own text for a name outside the grammar."""
    try:
        return parse_name(base)
    except InvalidName as error:
        raise ApiError(400, invalid_text) from error
