"""The socket that the server listens on: bound, replaced if a dead server left one, and removed at the end."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import stat
from pathlib import Path

from corral.api.http.settings import HttpSettings
from corral.core.errors import Conflict, SettingsError

__all__ = ("BACKLOG", "address_of", "bind", "inode_of", "release", "who_answers")

_PROBE_TIMEOUT_S = 2.0
_SEND_BUFFER_BYTES = 128 * 1024
BACKLOG = 2048


def bind(settings: HttpSettings) -> socket.socket:
    """A listening socket. Blocking; raises as `serve` does."""
    if settings.unix_socket is not None:
        return _bind_unix(settings.unix_socket)
    where = f"{settings.host}:{settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {where}: {error}", "set CORRAL_HOST to an address of this machine"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by connections. The system's default would buffer minutes of output before a stalled reader shows.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            holder = who_answers(settings.host, settings.port)
            raise Conflict(
                f"{where} is in use by {holder}", "stop it, or choose another port with CORRAL_HOST or --port"
            ) from error
        raise SettingsError(f"cannot listen on {where}: {error.strerror}", "choose another host or port") from error
    return listener


def who_answers(host: str, port: int) -> str:
    """Describes what uses a port: ``Corral 0.1.0``, ``Ollama 0.5.1``, another program. Blocks for up to 2 s."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    connection = http.client.HTTPConnection(target, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/api/version")
        version = json.loads(connection.getresponse().read(4096))
    except (OSError, http.client.HTTPException, ValueError):
        return "another program"
    finally:
        connection.close()
    if isinstance(version, dict) and "corral" in version:
        return f"Corral {version['corral']}"
    if isinstance(version, dict) and "version" in version:
        return f"Ollama {version['version']}"
    return "another web server"


def _bind_unix(path: str) -> socket.socket:
    """Replaces a socket that a killed server left behind, and never anything else."""
    _require_free(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(f"cannot listen on {path}: {error.strerror or error}", "choose another path") from error
    return listener


def _require_free(path: str) -> None:
    """Removes an abandoned socket at `path`. Raises `Conflict` for one in use, `SettingsError` for any other file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot listen on {path!r}: {error}", "choose another path") from error
    if not stat.S_ISSOCK(mode):
        kind = next((name for is_kind, name in _FILE_KINDS if is_kind(mode)), "a file")
        raise SettingsError(
            f"cannot listen on {path}: it is {kind}, not a socket", "choose another path: Corral never replaces a file"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SettingsError(
                f"cannot find out whether {path} is in use: {error.strerror or error}",
                "remove it, or choose another path",
            ) from error
        else:
            raise Conflict(f"{path} is in use by another server", "stop it, or choose another socket")


_FILE_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def inode_of(path: str | None) -> tuple[int, int] | None:
    """Identifies the file at `path`. None if there is none."""
    try:
        status = None if path is None else os.lstat(path)
    except OSError:
        return None
    return None if status is None else (status.st_dev, status.st_ino)


def release(listener: socket.socket, unix_socket: str | None, inode: tuple[int, int] | None) -> None:
    """Removes the socket file, unless another server has replaced it in the meantime."""
    listener.close()
    if unix_socket is not None and inode is not None and inode_of(unix_socket) == inode:
        Path(unix_socket).unlink(missing_ok=True)


def address_of(listener: socket.socket) -> str:
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"
