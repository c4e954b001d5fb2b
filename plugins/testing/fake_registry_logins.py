"""Who may ask a `FakeRegistry` for something: passwords, tokens of three kinds, and Ollama's signed requests."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

from corral.plugins.testing.fake_registry_connection import FakeConnection

__all__ = ("GuardedConnection",)


class GuardedConnection(FakeConnection):
    """Also the registry's token server."""

    def admits(self, path: str, name: str | None) -> bool:
        """Whether the request may go on. `name` is the repository that it is for. If not, it is answered."""
        state = self.state
        shown = self.headers.get("authorization", "")
        if state.demands == "basic":
            if self._basic_login(shown):
                return True
            self.error(401, "UNAUTHORIZED", headers={"WWW-Authenticate": 'Basic realm="fake, or not"'})
            return False
        if state.demands == "token":
            action = "pull" if self.command in ("GET", "HEAD") else "pull,push"
            scope = f"repository:{name}:{action}" if name else "registry:catalog:*"
            granted = state.tokens.get(shown.removeprefix("Bearer ")) if shown.startswith("Bearer ") else None
            if granted is not None and (path == "/v2/" or any(_covers(one, scope) for one in granted)):
                return True
            realm = state.realm or f"{self.own_url}/token"
            named = "" if path == "/v2/" else f',scope="{scope}"'
            demand = f'Bearer realm="{realm}",service="fake"{named}'
            self.error(401, "UNAUTHORIZED", headers={"WWW-Authenticate": demand})
            return False
        return True

    def _basic_login(self, shown: str) -> bool:
        with suppress(ValueError):
            user, _, password = base64.b64decode(shown.removeprefix("Basic ")).decode().partition(":")
            return shown.startswith("Basic ") and self.state.logins.get(user) == password
        return False

    def grant_token(self) -> None:
        state = self.state
        if self.command not in state.token_methods:
            self.error(405, "UNSUPPORTED")
            return
        form = parse_qs(self.body.decode()) if self.command == "POST" else parse_qs(urlsplit(self.path).query)
        scopes = tuple(scope for value in form.get("scope", []) for scope in value.split())
        open_to_all = state.anonymous_pulls and not any("push" in scope for scope in scopes)
        if not open_to_all and not self._may_have_token({name: values[-1] for name, values in form.items()}):
            self.error(401, "UNAUTHORIZED")
            return
        granted: dict[str, Any] = {"access_token" if self.command == "POST" else "token": state.grant(scopes)}
        if state.token_life_s is not None:
            granted["expires_in"] = state.token_life_s
        self.reply(200, json.dumps(granted).encode(), {"Content-Type": "application/json"})

    def _may_have_token(self, form: Mapping[str, str]) -> bool:
        state = self.state
        shown = self.headers.get("authorization", "")
        if form.get("grant_type") == "refresh_token":
            return form.get("refresh_token") in state.identity_tokens
        if form.get("grant_type") == "password":
            return state.logins.get(form.get("username", "")) == form.get("password")
        if shown.startswith("Basic "):
            return self._basic_login(shown)
        return bool(shown) and self._signed_well(shown)

    def _signed_well(self, shown: str) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.serialization import load_ssh_public_key

        public, _, signature = shown.partition(":")
        line = f"ssh-ed25519 {public}"
        nothing = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
        try:
            key: Any = load_ssh_public_key(line.encode())
            key.verify(base64.b64decode(signature), f"GET,{self.own_url}{self.path},{nothing}".encode())
        except (ValueError, InvalidSignature):
            return False
        return line in self.state.public_keys


def _covers(granted: str, wanted: str) -> bool:
    """Whether a scope has all actions of another one on the same resource."""
    resource, _, actions = granted.rpartition(":")
    other, _, needed = wanted.rpartition(":")
    return resource == other and set(needed.split(",")) <= set(actions.split(","))
