"""Asks a token server for one token: by GET with a login, by OAuth2, or signed with Ollama's key."""

from __future__ import annotations

import time
from urllib.parse import urlencode, urlsplit

import msgspec

from corral.adapters.registries.oci.addressing import Place, is_loopback
from corral.adapters.registries.oci.auth_files import Login
from corral.adapters.registries.oci.challenges import Challenge
from corral.adapters.registries.oci.connection_pool import ConnectionPool, Response
from corral.adapters.registries.oci.ollama_key import OllamaKey, new_nonce
from corral.adapters.registries.oci.refusals import access_denied, refusal
from corral.adapters.system.blocking_work import in_thread
from corral.core.errors import CorralError, SourceError
from corral.core.malformed import MALFORMED
from corral.core.values import Value

__all__ = ("Grant", "TokenServer")

_ANSWER_BYTES = 1024 * 1024
_DEFAULT_LIFE_S = 60.0
_CLIENT = "corral"
_NO_SUCH_METHOD = (404, 405)
_REFUSED = (400, 401, 403)


class Grant(Value, frozen=True, kw_only=True):
    """What is shown to a registry, and how long it is good from when it was asked for."""

    text: str
    life_s: float


class _Granted(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


class TokenServer:
    """Redirects are not followed: a login goes to the realm that the registry named, and nowhere else."""

    def __init__(self, connections: ConnectionPool, key: OllamaKey) -> None:
        self._connections = connections
        self._key = key

    async def token(
        self, place: Place, base: str, challenge: Challenge, scopes: tuple[str, ...], login: Login | None
    ) -> Grant:
        """A token for `scopes`; anonymous without a login. `base` is the registry's own address.

        Raises `SourceError`, also if the login would travel in the clear to another host.
        """
        realm = _checked_realm(place, base, challenge.realm, login)
        if login is None:
            return await self._without_login(place, base, realm, challenge.service, scopes)
        if login.kind == "refresh":
            return await self._by_post(place, realm, challenge.service, scopes, login)
        answer = await self._get(realm, _query(challenge.service, scopes, account=login.user), login.basic)
        if answer.status in _NO_SUCH_METHOD:
            await answer.aclose()
            return await self._by_post(place, realm, challenge.service, scopes, login)
        return await _granted(answer, place, _secrets(login))

    async def _without_login(self, place: Place, base: str, realm: str, service: str, scopes: tuple[str, ...]) -> Grant:
        if place.signs and urlsplit(realm).netloc == urlsplit(base).netloc:
            query = [*_query(service, scopes), ("ts", str(int(time.time()))), ("nonce", new_nonce())]
            url = _with_query(realm, sorted(query))
            try:
                signed = await in_thread(lambda _: self._key.authorization("GET", url))
            except SourceError:
                signed = None  # without the package for keys, what is public can still be had
            if signed is not None:
                answer = await self._connections.send("GET", url, {"authorization": signed})
                if answer.status not in _REFUSED:
                    return await _granted(answer, place, signed)
                await answer.aclose()
        return await _granted(await self._get(realm, _query(service, scopes), None), place)

    async def _by_post(self, place: Place, realm: str, service: str, scopes: tuple[str, ...], login: Login) -> Grant:
        fields = [("service", service), ("client_id", _CLIENT)]
        if scopes:
            fields.append(("scope", " ".join(scopes)))
        if login.kind == "refresh":
            fields += [("grant_type", "refresh_token"), ("refresh_token", login.secret)]
        else:
            fields += [("grant_type", "password"), ("username", login.user), ("password", login.secret)]
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = await self._connections.send("POST", realm, headers, urlencode(fields).encode())
        if answer.status in _NO_SUCH_METHOD and login.kind == "refresh" and login.user:
            await answer.aclose()
            answer = await self._get(realm, _query(service, scopes, account=login.user), login.basic)
        return await _granted(answer, place, _secrets(login))

    async def _get(self, realm: str, query: list[tuple[str, str]], authorization: str | None) -> Response:
        headers = {} if authorization is None else {"authorization": authorization}
        return await self._connections.send("GET", _with_query(realm, query), headers)


def _secrets(login: Login) -> str:
    """What a token server was shown, and might repeat."""
    return f"{login.secret} {login.basic}"


def _query(service: str, scopes: tuple[str, ...], account: str = "") -> list[tuple[str, str]]:
    stated = [("service", service)] if service else []
    named = [("account", account), ("client_id", _CLIENT)] if account else []
    return [*stated, *(("scope", scope) for scope in scopes), *named]


def _with_query(realm: str, query: list[tuple[str, str]]) -> str:
    return f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}" if query else realm


def _checked_realm(place: Place, base: str, realm: str, login: Login | None) -> str:
    """A login is sent over TLS, or to a registry that is itself reached without, or to this machine.

    The realm may be on another host, as Docker Hub's is: the registry could ask for the login itself.
    """
    try:
        parts = urlsplit(realm)
        host, well_formed = parts.hostname or "", parts.port != 0 and parts.username is None and not parts.fragment
    except ValueError:
        host, well_formed = "", False
    if not host or not well_formed or parts.scheme not in ("http", "https"):
        raise SourceError(f"{place.host} names {realm[:100]!r} as its token server, which is no address")
    own = urlsplit(base)
    in_the_clear = parts.scheme == "http" and not is_loopback(parts.netloc)
    if login is not None and in_the_clear and (own.scheme, own.netloc) != (parts.scheme, parts.netloc):
        raise SourceError(
            f"{place.host} wants the login at {realm[:200]}, which has no TLS: it is not sent",
            "ask whoever runs the registry for a token server with TLS",
        )
    return realm


async def _granted(answer: Response, place: Place, secret: str = "") -> Grant:
    if answer.status != 200:
        said: CorralError = await refusal(answer, place.host, "the token", secret)
        if answer.status in _REFUSED:
            raise access_denied(place.host) from said
        raise SourceError(f"the token server of {place.host}: {said.message}", said.remedy)
    try:
        body = await answer.beginning(_ANSWER_BYTES)
    finally:
        await answer.aclose()
    try:
        granted = msgspec.json.decode(body, type=_Granted)
    except MALFORMED as fault:
        raise SourceError(f"the token server of {place.host} answered no JSON object with a token") from fault
    text = granted.token or granted.access_token
    if not text or not text.isprintable() or not text.isascii():
        raise SourceError(f"the token server of {place.host} granted no token that can be sent")
    life_s = granted.expires_in if granted.expires_in and granted.expires_in > 0 else _DEFAULT_LIFE_S
    return Grant(text=text, life_s=life_s)
