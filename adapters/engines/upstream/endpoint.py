"""One address of an upstream: its connections, its key, its API, and its requests in progress."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import httpx
import msgspec

from corral.adapters.engines.upstream.refusals import Unavailable, refusal
from corral.adapters.engines.upstream.spec import HostOptions, UpstreamOptions
from corral.adapters.system.secrets import Secrets
from corral.core.errors import InvalidRequest, SettingsError, UpstreamError
from corral.core.requests.caller import PASSED_HEADER

__all__ = ("Endpoint",)

_ERROR_LIMIT_BYTES = 64 * 1024
_WHOLE_LIMIT_BYTES = 32 * 1024 * 1024
# uvicorn and llama-server close connections that have been idle for five seconds.
_IDLE_CONNECTION_S = 4.0
OutputT = TypeVar("OutputT")

_GONE = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)


class Endpoint:
    """Connects only to its own address: redirects are not followed, and no proxy is used unless the settings allow it.

    `api` is None until it is known. Its creator closes it.
    """

    def __init__(
        self,
        address: str,
        model: str,
        api: str | None,
        client: httpx.AsyncClient,
        options: UpstreamOptions,
        secrets: Secrets,
    ):
        self.address = address
        self.secrets = secrets
        self.max_answer_bytes = options.max_answer_bytes
        self.model = model
        self.api = api
        self.in_flight = 0
        self.rests_until_s = 0.0
        self._client = client
        self._options = options
        self._places = asyncio.Semaphore(options.max_connections)

    @classmethod
    async def open(cls, address: str, model: str, api: str | None, options: UpstreamOptions, host: HostOptions) -> Self:
        """Does not connect yet. Raises `InvalidRequest`, and `SettingsError` for an invalid key or header."""
        headers = {"accept-encoding": "identity", "user-agent": "corral"} | dict(host.headers)
        secrets = list(host.headers.values())
        if (key := _key(address, host)) is not None:
            headers["authorization"] = f"Bearer {key}"
            secrets.append(key)
        # Reading the system's certificates takes time.
        verify = await asyncio.to_thread(ssl.create_default_context) if address.startswith("https") else False
        try:
            _ = httpx.URL(address).host  # fails for names that are not valid international domain names
        except (httpx.InvalidURL, UnicodeError) as error:
            raise InvalidRequest(f"not an address of a server: {address[:100]!r}: {error}") from error
        client = httpx.AsyncClient(
            base_url=address,
            headers=_sendable(address, headers),
            verify=verify,
            trust_env=options.trust_env,
            follow_redirects=False,
            timeout=httpx.Timeout(options.silence_timeout_s, connect=options.connect_timeout_s, pool=None),
            # `_places` limits connections: httpx loses count of those that are abandoned while they are closed.
            limits=httpx.Limits(max_keepalive_connections=options.max_connections, keepalive_expiry=_IDLE_CONNECTION_S),
        )
        return cls(address, model, api, client, options, Secrets(secrets))

    def rest(self) -> None:
        """Records a failure: for a while, other addresses are tried first."""
        self.rests_until_s = time.monotonic() + self._options.rest_s

    @asynccontextmanager
    async def post(
        self, path: str, body: Any, passed: tuple[str, ...] = ()
    ) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """The body of the answer as it arrives. Leaving the context early closes the connection at once.

        `passed` are the servers that have handled the request so far; they are sent along.
        Raises `Unavailable` if no server answers, what `refusal` returns for a status other than 200, and
        `UpstreamError` for an answer that breaks off.
        """
        async with self._answer("POST", path, msgspec.json.encode(body), passed) as response:
            yield self._chunks(response)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        passed: tuple[str, ...] = (),
        *,
        limit_bytes: int = _WHOLE_LIMIT_BYTES,
    ) -> bytes:
        """A whole answer. Raises as `post`, and `UpstreamError` for one of more than `limit_bytes`."""
        data = bytearray()
        content = None if body is None else msgspec.json.encode(body)
        async with (
            self._answer(method, path, content, passed) as response,
            self._limited(self._options.silence_timeout_s),
        ):
            async for chunk in self._chunks(response):
                data += chunk
                if len(data) > limit_bytes:
                    raise UpstreamError(f"{self.address}: the answer is longer than {limit_bytes} bytes")
        return bytes(data)

    async def in_time(self, outputs: AsyncIterator[OutputT]) -> AsyncGenerator[OutputT, None]:
        """The outputs of an answer. Raises `UpstreamError` if only useless bytes arrive for too long."""
        while True:
            try:
                async with asyncio.timeout(self._options.silence_timeout_s):
                    output = await anext(outputs)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise self._silent() from error
            yield output

    async def aclose(self) -> None:
        """Closes every connection. May be called twice."""
        await self._client.aclose()

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, content: bytes | None, passed: tuple[str, ...]
    ) -> AsyncGenerator[httpx.Response, None]:
        self.in_flight += 1
        try:
            async with self._places:
                response = await self._send(method, path, content, passed)
                try:
                    if response.status_code != 200:
                        text = await self._beginning(response)
                        location = response.headers.get("location")
                        raise refusal(self.address, path, self.model, response.status_code, text, location)
                    yield response
                finally:
                    await asyncio.shield(response.aclose())
        finally:
            self.in_flight -= 1

    async def _send(self, method: str, path: str, content: bytes | None, passed: tuple[str, ...]) -> httpx.Response:
        """The head of the answer. If the server had closed a kept connection, the request is sent again."""
        headers = {} if content is None else {"content-type": "application/json"}
        if passed:
            headers[PASSED_HEADER] = ",".join(passed)
        while True:
            fresh = False

            async def trace(event: str, details: Any) -> None:
                nonlocal fresh
                fresh = fresh or event.endswith("connect_tcp.started")

            request = self._client.build_request(
                method, path, content=content, headers=headers, extensions={"trace": trace}
            )
            try:
                # The client's own limits apply to each piece of a head.
                async with self._limited(self._options.connect_timeout_s + self._options.silence_timeout_s):
                    return await self._client.send(request, stream=True)
            except _GONE as error:
                if fresh:
                    raise Unavailable(
                        f"{self.address} closed the connection without an answer", "see that server's log"
                    ) from error
            except httpx.HTTPError as error:
                raise self._translated(error) from error

    @asynccontextmanager
    async def _limited(self, limit_s: float) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError as error:
            raise self._silent() from error

    def _silent(self) -> UpstreamError:
        return UpstreamError(
            f"{self.address} sent nothing for {self._options.silence_timeout_s:g} s",
            "raise engines.upstream.silence_timeout_s if it just needs more time",
        )

    async def _chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            raise self._translated(error) from error

    async def _beginning(self, response: httpx.Response) -> bytes:
        data = bytearray()
        async for chunk in self._chunks(response):
            data += chunk
            if len(data) >= _ERROR_LIMIT_BYTES:
                break
        return bytes(data[:_ERROR_LIMIT_BYTES])

    def _translated(self, error: httpx.HTTPError) -> UpstreamError:
        if isinstance(error, httpx.ConnectTimeout):
            return Unavailable(
                f"{self.address} did not accept the connection within {self._options.connect_timeout_s:g} s",
                "check that it is up, or raise engines.upstream.connect_timeout_s",
            )
        if isinstance(error, httpx.TimeoutException):
            return self._silent()
        if isinstance(error, httpx.ConnectError | httpx.ProxyError):
            return Unavailable(f"no server answers at {self.address}: {error}", "check that the server there is up")
        if isinstance(error, _GONE):
            return Unavailable(
                f"{self.address} closed the connection in the middle of its answer", "see that server's log"
            )
        return UpstreamError(f"{self.address}: {type(error).__name__}: {error}")


def _sendable(address: str, headers: dict[str, str]) -> dict[str, str]:
    """Checks headers here, because the client's own error would contain the value."""
    for name, value in headers.items():
        if not re.fullmatch(r"[!-9;-~]+", name) or not re.fullmatch(r"[ -~]*", value):
            raise SettingsError(
                f'engines.upstream.hosts."{address}": the header {name!r:.40} cannot be sent',
                "header names, values and keys must be printable ASCII",
            )
    return headers


def _key(address: str, host: HostOptions) -> str | None:
    if host.key_env is None:
        return host.key
    key = os.environ.get(host.key_env, "").strip()
    if not key:
        raise SettingsError(
            f'engines.upstream.hosts."{address}".key_env names {host.key_env}, which is not set',
            f"export {host.key_env}",
        )
    return key
