"""Turns refusals of upstream servers into errors of Corral."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from corral.core.errors import CorralError, InvalidRequest, PromptTooLong, ServerBusy, Unsupported, UpstreamError
from corral.core.malformed import MALFORMED
from corral.core.wording.printable import one_line

__all__ = ("KeyRefused", "Unavailable", "UpstreamLoop", "error_in_answer", "message_of", "refusal", "reported_error")

_SHOWN_CHARACTERS = 400
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|context (?:length|size|window)|longer than the model", re.IGNORECASE
)


class Unavailable(UpstreamError):
    """The server is not there, or gone before the first token: another address can be tried."""


class KeyRefused(UpstreamError):
    """The server requires a key, or a different one."""


class UpstreamLoop(UpstreamError):
    """The upstreams lead back to a server that has already handled the request."""


def refusal(address: str, path: str, model: str, status: int, body: bytes, location: str | None = None) -> CorralError:
    """The error for a response whose status is not 200."""
    message = message_of(body)
    said = f": {message}" if message else ""
    if 300 <= status < 400:
        return UpstreamError(
            f"{address} redirects to {location or 'nowhere'}; Corral does not follow redirects",
            "use that address if it is the right one",
        )
    if status in (401, 403):
        return KeyRefused(
            f"{address} refuses the key ({status}){said}",
            f'set key or key_env in [engines.upstream.hosts."{address}"]',
        )
    if status == 404:
        return UpstreamError(
            f"{address} has no model {model!r}, or no {path} (404){said}",
            "corral upstream NAME ADDRESS lists its models",
        )
    if status in (429, 503):
        return ServerBusy(f"{address} is busy ({status}){said}", "try again later, or add another address")
    if status == 508:
        return UpstreamLoop(
            f"{address} leads back to a server that has already handled this request{said}",
            "give the upstream model the address of the server that actually runs it",
        )
    if status in (502, 504):
        return Unavailable(f"{address} cannot reach its server ({status}){said}", "check that it is up")
    if status == 501:
        return Unsupported(f"{address} does not support this{said}")
    return reported_error(address, message or f"it answered {status}", ours=not 400 <= status < 500)


def error_in_answer(address: str, path: str, model: str, body: bytes) -> CorralError | None:
    """The error for an error object in a response with status 200, by the status in the object.

    None if `body` is something else.
    """
    try:
        found = msgspec.json.decode(body)
    except MALFORMED:
        return None
    if not isinstance(found, dict) or not _is_error(found):
        return None
    status = _status(found)
    return reported_error(address, message_of(body)) if status is None else refusal(address, path, model, status, body)


def _is_error(found: dict[str, Any]) -> bool:
    if found.get("error") or found.get("object") == "error":
        return True
    return bool(found.get("detail") or isinstance(found.get("message"), str)) and "choices" not in found


def _status(found: Any) -> int | None:
    """``code`` or ``status`` of an error, at any depth: a number, or a text with a number."""
    if not isinstance(found, dict):
        return None
    for key in ("code", "status", "status_code"):
        value = found.get(key)
        if isinstance(value, str) and re.fullmatch("[45][0-9][0-9]", value):
            value = int(value)
        if type(value) is int and 400 <= value < 600:
            return value
    return _status(found.get("error")) or _status(found.get("detail"))


def reported_error(address: str, message: str, *, ours: bool = True) -> CorralError:
    """The error for a message that came instead of an answer or within one. `ours`: the caller is not to blame."""
    if _TOO_LONG.search(message):
        return PromptTooLong(f"{address}: {message}", "shorten the prompt")
    return UpstreamError(f"{address}: {message}") if ours else InvalidRequest(f"{address}: {message}")


def message_of(body: bytes) -> str:
    """The text of an error, at any depth; the body itself if it is not JSON."""
    try:
        found = msgspec.json.decode(body)
    except MALFORMED:
        found = body.decode(errors="replace")
    return one_line(" ".join(_text(found).split())[:_SHOWN_CHARACTERS])


def _text(found: Any) -> str:
    if isinstance(found, dict):
        for key in ("error", "message", "detail"):
            if found.get(key):
                text = _text(found[key])
                kind = found.get("type") or found.get("code")
                return f"{text} ({kind})" if isinstance(kind, str) and key == "message" else text
    return found if isinstance(found, str) else msgspec.json.encode(found).decode()
