"""The private files of this machine's user, with what is set about them: logins at registries, keys of the server."""

from __future__ import annotations

import msgspec

from corral.adapters.authenticators.key_file import KeyFile
from corral.adapters.authenticators.settings import KeysSettings, keys_path
from corral.adapters.registries.oci.own_logins import OwnLogins
from corral.adapters.registries.oci.settings import OciRegistrySettings

__all__ = ("own_keys", "own_logins")


def own_logins(stated: msgspec.Struct | None) -> OwnLogins:
    """`stated` are the settings of the OCI registry, if there is one."""
    return OwnLogins(stated if isinstance(stated, OciRegistrySettings) else OciRegistrySettings())


def own_keys(stated: msgspec.Struct | None) -> KeyFile:
    """The keys that the authenticator ``keys`` knows. `stated` are its settings, if there are any."""
    return KeyFile(keys_path(stated if isinstance(stated, KeysSettings) else KeysSettings()))
