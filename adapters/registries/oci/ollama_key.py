"""The ed25519 key by which Ollama's registry knows a machine, in OpenSSH's format."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from corral.adapters.system.files import make_folder, new_file, sync_folder, write_all
from corral.core.errors import SourceError
from corral.core.regular_files import open_regular
from corral.core.wording.pip_lines import pip_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ("OllamaKey", "new_nonce")

_MOST_BYTES = 64 * 1024
_NO_BODY = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()


class OllamaKey:
    """A file with a private key, and one beside it with the public half. All methods block."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser()

    def public_line(self) -> str:
        """``ssh-ed25519 …``, as an account takes it. Makes the key if there is none. Raises `SourceError`."""
        return _public_line(self._key())

    def authorization(self, method: str, url: str) -> str:
        """The ``Authorization`` of a request without a body: the public key and a signature. Raises `SourceError`."""
        key = self._key()
        signature = key.sign(f"{method},{url},{_NO_BODY}".encode())
        return f"{_public_line(key).split()[1]}:{base64.b64encode(signature).decode()}"

    def _key(self) -> Ed25519PrivateKey:
        try:
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        except ImportError as fault:
            raise SourceError("Ollama's key needs the package cryptography", pip_line("corral[registry]")) from fault
        try:
            if not self._path.exists():
                self._make(Ed25519PrivateKey.generate())
            with open_regular(self._path) as file:
                key = serialization.load_ssh_private_key(file.read(_MOST_BYTES), None)
        except (OSError, ValueError, TypeError) as fault:  # also for a key with a passphrase
            raise SourceError(
                f"cannot use the key {str(self._path)!r}: {fault}",
                "it is an ed25519 key of OpenSSH without a passphrase; if you remove it, a new one is made",
            ) from fault
        if not isinstance(key, Ed25519PrivateKey):
            raise SourceError(f"the key {str(self._path)!r} is not an ed25519 key", "remove it; a new one is made")
        return key

    def _make(self, key: Ed25519PrivateKey) -> None:
        """Writes a new key, unless another process is faster."""
        from cryptography.hazmat.primitives import serialization

        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        folder = self._path.parent
        make_folder(folder)
        scratch = folder / f".{self._path.name}.{uuid.uuid4().hex}"
        try:
            _write(scratch, private, 0o600)
            with suppress(FileExistsError):
                os.link(scratch, self._path)
                public = self._path.with_name(f"{self._path.name}.pub")
                with suppress(FileExistsError):
                    _write(public, f"{_public_line(key)}\n".encode(), 0o644)
        finally:
            with suppress(FileNotFoundError):
                scratch.unlink()
        sync_folder(folder)


def new_nonce() -> str:
    """What makes a signed request unlike any other."""
    return base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")


def _public_line(key: Ed25519PrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization

    encoded = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return encoded.decode()


def _write(path: Path, data: bytes, mode: int) -> None:
    with new_file(path, mode) as file:
        write_all(file, data)
        os.fsync(file.fileno())
