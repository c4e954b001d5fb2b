"""Addresses of files: ``https://HOST/PATH/FILE[?QUERY][#sha256=DIGEST]``."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from corral.adapters.registries.oci.addressing import Place, is_loopback
from corral.core.errors import InvalidDigest, InvalidRequest
from corral.core.models.digests import Digest, parse_digest
from corral.core.models.split_names import parse_part_name
from corral.core.values import Value

__all__ = ("WebAddress", "parse_web_address", "server_place", "with_siblings")

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f\\]")
_FILE_NAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,255}")
_MOST_PARTS = 1000  # each is asked for before any is fetched
_FORM = "write {scheme}://HOST/PATH/FILE.gguf, and #sha256=DIGEST behind it if the digest is known"


class WebAddress(Value, frozen=True, kw_only=True):
    """A file on a server. `shown` is its address without the query, which may be a signature."""

    url: str
    shown: str
    place: Place
    file_name: str
    digest: Digest | None


def parse_web_address(text: str, *, insecure: Collection[str]) -> WebAddress:
    """Parses an address, whose scheme is ``https`` or ``http``.

    Raises `InvalidRequest` if it is malformed, has a login in it, or has no TLS although its server is neither this
    machine nor among those that are `insecure`.
    """
    scheme = text.partition("://")[0]
    form = _FORM.format(scheme=scheme)
    try:
        parts = urlsplit(text)
    except ValueError as fault:
        raise InvalidRequest(f"not an address: {text[:200]!r}: {fault}", form) from fault
    place = server_place(parts, insecure, f"sources.{scheme}")
    path, _, _ = parts.path.partition(";")
    file_name = unquote(path).rpartition("/")[2]
    if _UNPRINTABLE.search(text) or not _FILE_NAME.fullmatch(file_name) or file_name in (".", ".."):
        raise InvalidRequest(f"not the address of a file: {text[:200]!r}", form)
    return WebAddress(
        url=urlunsplit((*parts[:4], "")),
        shown=urlunsplit((*parts[:3], "", "")),
        place=place,
        file_name=file_name,
        digest=_digest(parts.fragment, form),
    )


def with_siblings(address: WebAddress) -> tuple[WebAddress, ...]:
    """The addresses of all parts of the weights that the file is a part of by its name, in their order; otherwise this
    one alone. They have its query, but a digest is that of one file."""
    parts = urlsplit(address.url)
    name = parse_part_name(parts.path)
    if name is None or name.count == 1:
        return (address,)
    if name.count > _MOST_PARTS:
        raise InvalidRequest(f"{address.file_name} is one of {name.count} parts; at most {_MOST_PARTS} are fetched")
    found = []
    for path in name.siblings:
        url = urlunsplit(parts._replace(path=path))
        sibling = WebAddress(
            url=url,
            shown=urlunsplit((*parts[:2], path, "", "")),
            place=address.place,
            file_name=unquote(path).rpartition("/")[2],
            digest=None,
        )
        found.append(address if path == parts.path else sibling)
    return tuple(found)


def server_place(parts: SplitResult, insecure: Collection[str], section: str) -> Place:
    """The server of an address. Raises `InvalidRequest` as `parse_web_address`; `section` has `insecure`."""
    authority = parts.netloc.lower()
    if "@" in authority:
        raise InvalidRequest(
            f"an address must not contain a login: {parts.scheme}://…@{authority.rpartition('@')[2]}",
            "corral login HOST keeps one",
        )
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(authority):
        raise InvalidRequest(f"not an address: {urlunsplit((*parts[:3], '', ''))[:200]!r}", "it names no host")
    host = parts.hostname or ""
    plain = parts.scheme == "http"
    if plain and not is_loopback(authority) and not {host, authority} & {one.lower() for one in insecure}:
        raise InvalidRequest(
            f"{authority} would be reached without TLS",
            f'use https://, or set {section}.insecure = ["{authority}"] if that is intended',
        )
    return Place(host=authority, authority=authority, repository="", insecure=plain)


def _digest(fragment: str, form: str) -> Digest | None:
    if not fragment:
        return None
    kind, _, digits = fragment.partition("=")
    if kind != "sha256":
        raise InvalidRequest(f"#{fragment[:100]} means nothing here", form)
    try:
        return parse_digest(f"sha256:{digits.lower()}")
    except InvalidDigest as fault:
        raise InvalidRequest(f"#{fragment[:100]} is no digest", form) from fault
