"""Where a reference leads: the host that is asked, and the repository there."""

from __future__ import annotations

import ipaddress

from corral.core.errors import InvalidRequest
from corral.core.models.names import DEFAULT_HOST, DEFAULT_NAMESPACE
from corral.core.models.references import DOCKER_HUB, HUGGING_FACE, Reference
from corral.core.values import Value

__all__ = (
    "HUB_NAMES",
    "HUGGING_FACE_NAMES",
    "SCHEMES",
    "Place",
    "host_place",
    "is_hugging_face",
    "is_loopback",
    "place_of",
)

SCHEMES = ("oci", "ollama", "docker", "hf")
"""``oci://`` is any registry; the others have a default host and rules of their own."""

HUB_NAMES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
_SERVED_AT = dict.fromkeys(HUB_NAMES, "registry-1.docker.io") | {HUGGING_FACE: "huggingface.co"}
HUGGING_FACE_NAMES = (HUGGING_FACE, "huggingface.co")


class Place(Value, frozen=True, kw_only=True):
    """A repository of a registry. `host` is what people call it, `authority` the host and port that are connected to.

    `insecure`: without TLS. `signs`: a token request without a login is signed with Ollama's key.
    """

    host: str
    authority: str
    repository: str
    insecure: bool = False
    signs: bool = False


def place_of(reference: Reference) -> Place:
    """The place of a reference. Raises `InvalidRequest` if it names no host and its scheme has no default one."""
    host = reference.host or (DEFAULT_HOST if reference.scheme in ("", "ollama") else "")
    if not host:
        raise InvalidRequest(f"'{reference}' names no registry", f"write {reference.scheme}://HOST/PATH[:TAG]")
    is_ollama = reference.scheme in ("", "ollama")
    place = host_place(host, insecure=reference.insecure, signs=is_ollama)
    repository = reference.path
    if "/" not in repository and (is_ollama or place.host in HUB_NAMES):
        repository = f"{DEFAULT_NAMESPACE}/{repository}"
    return Place(
        host=place.host,
        authority=place.authority,
        repository=repository,
        insecure=reference.insecure,
        signs=place.signs,
    )


def host_place(host: str, *, insecure: bool = False, signs: bool = False) -> Place:
    """A registry as a whole: its `repository` is empty."""
    host = host.lower()
    return Place(
        host=host,
        authority=_SERVED_AT.get(host, host),
        repository="",
        insecure=insecure,
        signs=signs or host == DEFAULT_HOST or is_hugging_face(host),
    )


def is_hugging_face(host: str) -> bool:
    return host in HUGGING_FACE_NAMES


def is_loopback(authority: str) -> bool:
    """Whether a host, with or without a port, is this machine by its name or its address."""
    host = authority.rpartition(":")[0] if authority.rpartition(":")[2].isdecimal() else authority
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
