"""The server on a free port of this machine that the fakes of the kit are, with faults that a test orders."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from corral.plugins.testing.fake_registry_connection import FakeConnection
from corral.plugins.testing.fake_registry_state import Fault, RegistryState

__all__ = ("FakeServer",)


class FakeServer(RegistryState):
    """Listens on real sockets until it is closed; a context manager. Each request has a thread of its own.

    `seen` has all requests, in order. Attributes may be changed at any time; `faults` are answered with first, each as
    often as it says. With `tls`, it speaks TLS.
    """

    def __init__(self, connection: type[FakeConnection], tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self._server = _Server(("127.0.0.1", 0), connection)
        self._server.state = self
        self._server.tls = tls
        self.scheme = "http" if tls is None else "https"
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.scheme}://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening, and ends the requests that are being stalled."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fault(self, method: str, pattern: str, do: Callable[[Any], None], times: int = 1) -> None:
        """The next requests with this method whose path contains the regular expression are answered by `do`."""
        self.faults.append(Fault(method=method, pattern=pattern, do=do, times=times))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    state: RegistryState
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients leave, and refuse certificates; tests see what comes of that."""
