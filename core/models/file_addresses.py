"""Addresses that name a file: ``file://`` on this machine, or one on a web server."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from corral.core.errors import InvalidRequest

__all__ = ("FILE_SCHEME", "is_web_file", "path_of_address")

FILE_SCHEME = "file"
_FORM = "write file:///PATH, with the absolute path of a model file or folder"


def is_web_file(text: str) -> bool:
    """Whether this is the address of a file on a web server. A name can have these schemes too:
    ``http://host/namespace/model``.
    """
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and (parts.path.lower().endswith(".gguf") or bool(parts.fragment))


def path_of_address(text: str) -> Path:
    """The path that ``file:///PATH`` names. Raises `InvalidRequest` if it is not absolute, or on another machine."""
    try:
        parts = urlsplit(text)
    except ValueError as fault:
        raise InvalidRequest(f"not an address: {text[:200]!r}", _FORM) from fault
    path = Path(unquote(parts.path))
    if parts.scheme != FILE_SCHEME or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise InvalidRequest(f"not the address of a file of this machine: {text[:200]!r}", _FORM)
    if not path.is_absolute() or "\0" in str(path):
        raise InvalidRequest(f"not an absolute path: {text[:200]!r}", _FORM)
    return path
