"""References to models in registries: ``[scheme://][host/]path[:tag][@digest]``."""

from __future__ import annotations

import re

from corral.core.errors import InvalidName, InvalidRequest
from corral.core.models.digests import Digest, parse_digest, short_digest
from corral.core.models.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName, parse_name
from corral.core.values import Value

__all__ = ("DOCKER_HUB", "HUGGING_FACE", "Reference", "is_on_hugging_face", "name_from_reference", "parse_reference")

DOCKER_HUB = "docker.io"
HUGGING_FACE = "hf.co"
_HUGGING_FACE_HOSTS = (HUGGING_FACE, "huggingface.co")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?(?::[0-9]{1,5})?")
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DEFAULT_HOSTS = {"docker": DOCKER_HUB, "hf": HUGGING_FACE}
_PATH_LIMIT = 255  # characters, as registries have it


class Reference(Value, frozen=True, kw_only=True):
    """A model in a registry. Created by `parse_reference`, which checks the grammar of every part.

    An empty `host` means the registry's default. With a `digest`, it is that manifest, whatever the `tag`.
    `insecure`: the registry is reached without TLS, as ``"insecure": true`` asks in Ollama's API.
    """

    path: str
    scheme: str = ""
    host: str = ""
    tag: str = DEFAULT_TAG
    digest: Digest | None = None
    insecure: bool = False

    @property
    def repository(self) -> str:
        """Host and path: manifests of one repository share its blobs."""
        return f"{self.host}/{self.path}" if self.host else self.path

    def __str__(self) -> str:
        scheme = f"{self.scheme}://" if self.scheme else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{scheme}{self.repository}:{self.tag}{digest}"


def parse_reference(text: str, *, scheme: str = "", insecure: bool = False) -> Reference:
    """Parses a reference. Its first part is a host if others follow and it has a dot or a port, or is ``localhost``.

    Without one, ``docker://`` and ``hf://`` have theirs. `scheme` is the one that it has if the text has none. Raises
    `InvalidRequest`.
    """
    stated, separator, rest = text.partition("://")
    if separator:
        scheme = stated
    else:
        rest = text
    rest, at, digest = rest.partition("@")
    path, tag = rest, DEFAULT_TAG
    if rest.rfind(":") > rest.rfind("/"):
        path, _, tag = rest.rpartition(":")
    first, slash, others = path.partition("/")
    host = _DEFAULT_HOSTS.get(scheme, "")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, path = first, others
    well_formed = (
        (not separator or _SCHEME.fullmatch(scheme))
        and (not host or _HOST.fullmatch(host))
        and len(path) <= _PATH_LIMIT
        and all(_SEGMENT.fullmatch(segment) for segment in path.split("/"))
        and _TAG.fullmatch(tag)
    )
    if not well_formed:
        raise InvalidRequest(
            f"invalid reference: {text[:100]!r}", "a reference is [SCHEME://][HOST/]PATH[:TAG][@sha256:DIGEST]"
        )
    known = parse_digest(digest) if at else None
    return Reference(scheme=scheme, host=host, path=path, tag=tag, digest=known, insecure=insecure)


def is_on_hugging_face(reference: Reference) -> bool:
    return reference.host.lower() in _HUGGING_FACE_HOSTS


def name_from_reference(reference: Reference) -> ModelName:
    """The name for a pulled model if none is given: the reference's host, path and tag.

    Names have one namespace: those of a deeper path are joined with ``--``, as Hugging Face's cache joins them, and
    dots become ``-``. If there is a digest but no tag, its first digits become the tag. Raises `InvalidRequest` if a
    part is too long for a name.
    """
    *namespaces, model = reference.path.split("/")
    tag = reference.tag
    if reference.digest and tag == DEFAULT_TAG:
        tag = short_digest(reference.digest)
    namespace = "--".join(namespaces).replace(".", "-") or DEFAULT_NAMESPACE
    try:
        return parse_name(f"{reference.host or DEFAULT_HOST}/{namespace}/{model}:{tag}")
    except InvalidName as fault:
        raise InvalidRequest(f"'{reference}' is too long for the name of a model", "give it one with --name") from fault
