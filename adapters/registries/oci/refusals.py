"""What an answer with an error status means: the registry's own message, as an error of Corral."""

from __future__ import annotations

import msgspec

from corral.adapters.registries.oci.connection_pool import Response
from corral.adapters.system.secrets import Secrets
from corral.core.errors import CorralError, DigestMismatch, NotFound, SourceError, SourceUnavailable
from corral.core.malformed import MALFORMED
from corral.core.wording.clipping import clipped_line

__all__ = ("AccessDenied", "access_denied", "refusal")

_READ_BYTES = 64 * 1024
_SHOWN_CHARACTERS = 1000
_DIGEST_INVALID = '"DIGEST_INVALID"'
_BUSY = (408, 425, 429)


class _Fault(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Faults(msgspec.Struct):
    errors: list[_Fault] = []


async def refusal(answer: Response, host: str, what: str, authorization: str | None = None) -> CorralError:
    """The error for `answer`, which is closed. `what` was asked for; `authorization` never appears in the error.

    `NotFound` for 404; `DigestMismatch` if what was sent is not what it should be; `SourceUnavailable` if another
    attempt may succeed; otherwise `SourceError`, ``CODE: BODY``.
    """
    try:
        body = (await answer.beginning(_READ_BYTES)).decode(errors="replace").strip()
    except SourceError:
        body = ""
    finally:
        await answer.aclose()
    body = Secrets((authorization or "").split()).hidden_in(body)
    if answer.status == 401:
        return access_denied(host, body)
    if answer.status == 404:
        return NotFound(f"{what} does not exist in {host}", _message(body) or "check its name and its tag")
    if answer.status == 400 and _DIGEST_INVALID in body:
        return DigestMismatch(f"digest mismatch: {host} says: {_message(body)}", "the file has changed on the disk")
    text = f"{answer.status}: {clipped_line(body, _SHOWN_CHARACTERS)}" if body else f"{answer.status}"
    if answer.status in _BUSY or answer.status >= 500:
        wait = answer.headers.get("retry-after", "")
        later = f"try again in {wait} s" if wait.isdecimal() else "try again later"
        return SourceUnavailable(text, f"{host} cannot answer now; {later}")
    if answer.status == 403:
        return SourceError(text, f"corral login {host}, as someone who may do this")
    if 300 <= answer.status < 400:
        return SourceError(f"{answer.status}: {host} redirects to {clipped_line(answer.headers.get('location', ''))}")
    return SourceError(text, _message(body) or f"this is what {host} answered")


class AccessDenied(SourceError):
    """The registry answers 401 to whatever login there is for it."""


def access_denied(host: str, body: str = "") -> AccessDenied:
    """The error for a registry that still answers 401 to the best that there is to show."""
    said = f" ({_message(body)})" if _message(body) else ""
    return AccessDenied(f"unauthorized: access denied{said}", f"corral login {host}")


def _message(body: str) -> str:
    try:
        faults = msgspec.json.decode(body, type=_Faults).errors
    except MALFORMED:
        return ""
    return clipped_line("; ".join(fault.message or fault.code for fault in faults if fault.message or fault.code))
