"""A small HTTP client for a Corral server, based on the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Any, Literal

from corral.core.access_errors import Forbidden, TooManyRequests, Unauthenticated
from corral.core.errors import (
    CorralError,
    EngineError,
    InvalidRequest,
    NotFound,
    ServerBusy,
    SourceError,
    Unsupported,
)
from corral.plugins.assembly import Address

__all__ = ("ServerClient",)

_PROBE_TIMEOUT_S = 2.0
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # a server that listens on all addresses is reached on loopback
_ERRORS: dict[int, type[CorralError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    429: TooManyRequests,
    501: Unsupported,
    503: ServerBusy,
}


class ServerClient:
    """Each request has its own connection, which an interrupt closes, so that the server cancels the request."""

    def __init__(self, address: Address, *, api_key: str = "", timeout_s: float | None = None) -> None:
        """`api_key` is sent with each request unless it is empty. `timeout_s` limits each wait; None means no limit."""
        self.address = address
        self._timeout_s = timeout_s
        self._authorization = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def state(self) -> Literal["corral", "foreign", "absent"]:
        """What answers at the address. Blocks for at most two seconds."""
        try:
            version = self._version()
        except (OSError, http.client.HTTPException):
            return "absent"
        return "corral" if "corral" in version else "foreign"

    def require(self) -> None:
        """Raises `SourceError` if nothing answers, or something other than Corral."""
        state = self.state()
        if state == "absent":
            raise SourceError(
                f"no server answers at {self.address.url}",
                "start one with corral serve, or set CORRAL_HOST to where it is",
            )
        if state == "foreign":
            raise SourceError(
                f"the server at {self.address.url} is {self.who()}, not Corral",
                "start one with corral serve on another port, and set CORRAL_HOST to where it is",
            )

    def foreign(self) -> SourceError:
        """The error for a server that the user named, and that is not Corral."""
        return SourceError(
            f"the server at {self.address.url} is {self.who()}, not Corral",
            "work in this process with --local, or set CORRAL_HOST to a Corral server",
        )

    def who(self) -> str:
        """The program that answers, if it is not Corral. Blocks for at most two seconds."""
        try:
            version = self._version().get("version")
        except (OSError, http.client.HTTPException):
            version = None
        return f"Ollama {version}" if isinstance(version, str) else "another program"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Sends a request; returns the decoded answer, None if empty. Raises the error that the server reports."""
        with closing(self._connection()) as connection, self._translated():
            data = self._send(connection, method, path, body).read()
            return json.loads(data) if data.strip() else None

    def stream(self, path: str, body: Any) -> Generator[dict[str, Any], None, None]:
        """Yields the lines of a streamed answer. Closing the generator early cancels the request."""
        with closing(self._connection()) as connection, self._translated():
            response = self._send(connection, "POST", path, body)
            while line := response.readline():
                message = json.loads(line)
                if "error" in message:
                    raise EngineError(str(message["error"]))
                yield message

    def exists(self, path: str) -> bool:
        """Whether the server answers HEAD with something other than 404. Raises the error that it reports."""
        with closing(self._connection()) as connection, self._translated():
            connection.request("HEAD", self._path(path), headers=self._authorization)
            status = connection.getresponse().status
        if status >= 400 and status != 404:
            # Nothing answers HEAD with a text. An empty upload is refused for the same reason, and says so.
            with closing(self._connection()) as connection, self._translated():
                connection.request("POST", self._path(path), b"", self._authorization)
                response = connection.getresponse()
                raise _error(status, response.read(65536) if response.status == status else b"")
        return status != 404

    def upload(self, path: str, chunks: Iterable[bytes], size_bytes: int) -> None:
        """Sends bytes as they come. Raises the error that the server reports."""
        with closing(self._connection()) as connection, self._translated():
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
            connection.request("POST", self._path(path), chunks, headers | self._authorization)
            response = connection.getresponse()
            answer = response.read(65536)
            if response.status >= 400:
                raise _error(response.status, answer)

    def _version(self) -> dict[str, Any]:
        with closing(self._connection(_PROBE_TIMEOUT_S)) as connection:
            connection.request("GET", self._path("/api/version"))  # for everyone, so without the key
            try:
                version = json.loads(connection.getresponse().read(4096))
            except ValueError:
                version = None
        return version if isinstance(version, dict) else {}

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Any
    ) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        connection.request(method, self._path(path), data, headers | self._authorization)
        response = connection.getresponse()
        if response.status >= 400:
            raise _error(response.status, response.read(65536))
        return response

    def _path(self, path: str) -> str:
        return f"/{self.address.path}{path}" if self.address.path else path

    def _connection(self, timeout_s: float | None = None) -> http.client.HTTPConnection:
        address, timeout_s = self.address, timeout_s or self._timeout_s
        if address.unix_path is not None:
            return _UnixConnection(address.unix_path, timeout_s)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        return kind(_LOOPBACK.get(address.host, address.host), address.port, timeout=timeout_s)

    def _translated(self) -> _Translated:
        return _Translated(self.address.url)


class _Translated:
    """Turns connection errors into `SourceError`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ConnectionRefusedError):
            raise SourceError(f"no server answers at {self._url}", "start one with corral serve") from error
        if isinstance(error, OSError | http.client.HTTPException | ValueError) and not isinstance(error, CorralError):
            raise SourceError(
                f"the exchange with the server at {self._url} failed: {error or type(error).__name__}"
            ) from error


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._socket_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


def _error(status: int, body: bytes) -> CorralError:
    try:
        message = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        text = body[:200].decode(errors="replace") or http.client.responses.get(status, "without a text")
        message = f"the server answered {status}: {text}"
    remedy = "set CORRAL_API_KEY to a key of this server" if status == 401 else None
    return _ERRORS.get(status, EngineError)(message, remedy)
