"""Names of models as repositories and tags of one registry, below a prefix, and back."""

from __future__ import annotations

import re

from corral.core.errors import InvalidName, InvalidRequest, SettingsError
from corral.core.models.names import DEFAULT_HOST, ModelName, parse_name
from corral.core.models.references import Reference, parse_reference

__all__ = ("RemoteNames",)

_PLAIN = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")  # what a registry takes between two slashes
_ESCAPE = "x--"
_PATH_LIMIT = 255


class RemoteNames:
    """``PREFIX/NAMESPACE/MODEL:TAG`` in the registry is the model ``NAMESPACE/MODEL:TAG``, and ``PREFIX/HOST/…`` one of
    another host.

    Registries take only lower case in paths. A part that they would not take is ``x--``, and then its text with ``-``
    and two hex digits for each character that is neither a digit nor a lower-case letter.
    """

    def __init__(self, location: str) -> None:
        """`location` is ``HOST[:PORT][/PREFIX]``. Raises `SettingsError`."""
        self._base = _base(location)
        self.host = self._base.host
        prefix = self._base.path.rpartition("/")[0]
        self._prefix = f"{prefix}/" if prefix else ""

    def __str__(self) -> str:
        return f"oci://{self.host}/{self._prefix}".rstrip("/")

    def reference(self, name: ModelName) -> Reference:
        """Raises `InvalidName` for a name that is too long for a registry."""
        parts = [name.namespace, name.model]
        if name.host.lower() != DEFAULT_HOST:
            parts.insert(0, name.host)
        path = self._prefix + "/".join(_written(part) for part in parts)
        if len(path) > _PATH_LIMIT:
            raise InvalidName(f"'{name}' is too long for a registry", "choose a shorter name")
        return self.repository(path, name.tag)

    def repository(self, path: str, tag: str = "latest") -> Reference:
        """A repository by its whole path in the registry."""
        return Reference(scheme=self._base.scheme, host=self.host, path=path, tag=tag)

    def inside(self, path: str) -> str:
        """The path in the registry of a repository that is named from the prefix on."""
        return self._prefix + path.strip("/")

    def name(self, path: str, tag: str) -> ModelName | None:
        """The model in this repository, under this tag; None for a repository that is no model's."""
        if not path.startswith(self._prefix):
            return None
        parts = [_read(part) for part in path.removeprefix(self._prefix).split("/")]
        if len(parts) not in (2, 3) or None in parts:
            return None
        try:
            name = parse_name("/".join([*(DEFAULT_HOST for _ in range(3 - len(parts))), *map(str, parts)]) + f":{tag}")
        except InvalidName:
            return None
        found = self.reference(name)
        return name if (found.path, found.tag) == (path, tag) else None


def _base(location: str) -> Reference:
    text = location.strip("/")
    try:
        found = parse_reference(f"oci://{text}/model")
    except InvalidRequest:
        found = None
    if found is None or not found.host or not all(_PLAIN.fullmatch(part) for part in found.path.split("/")):
        raise SettingsError(
            f"stores.oci.location: {location[:100]!r} is not HOST[:PORT][/PREFIX] in lower case",
            "set store to oci://HOST/PREFIX; a HOST has a dot or a port, or is localhost",
        )
    return found


def _written(part: str) -> str:
    if _PLAIN.fullmatch(part) and not part.startswith(_ESCAPE):
        return part
    return _ESCAPE + re.sub(r"[^a-z0-9]", lambda found: f"-{ord(found[0]):02x}", part) + ("-" if not part else "")


def _read(part: str) -> str | None:
    if not part.startswith(_ESCAPE):
        return part
    text = part.removeprefix(_ESCAPE)
    if not re.fullmatch(r"(?:[a-z0-9]|-[0-9a-f]{2})+", text):
        return None
    return re.sub(r"-([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text)
