"""What a `FakeRegistry` holds, and how it behaves unless a fault is ordered."""

from __future__ import annotations

import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

__all__ = ("FakeUpload", "Fault", "RegistryState", "SeenRequest")


class SeenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it arrived; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body_bytes: int


class Fault(msgspec.Struct, kw_only=True):
    method: str
    pattern: str
    do: Callable[[Any], None]
    times: int


class FakeUpload(msgspec.Struct, kw_only=True):
    """An upload in progress. Its address changes with every piece."""

    data: bytearray
    parts: int = 0
    version: int = 0


class FakeRepository:
    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.tags: dict[str, str] = {}


class RegistryState:
    """Repositories by path, logins, and quirks of registries as attributes.

    `stalling` is set as soon as an answer stalls; it does so until `released` is set.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.stalling = threading.Event()
        self.released = threading.Event()
        self.repositories: defaultdict[str, FakeRepository] = defaultdict(FakeRepository)
        self.uploads: dict[str, FakeUpload] = {}
        self.stored_parts: dict[str, bytes] = {}
        self.seen: list[SeenRequest] = []
        self.faults: list[Fault] = []

        self.demands: Literal["", "basic", "token"] = ""
        self.logins: dict[str, str] = {}
        self.identity_tokens: set[str] = set()
        self.public_keys: set[str] = set()
        self.token_methods = {"GET", "POST"}
        self.anonymous_pulls = False
        self.token_life_s: int | None = 300
        self.realm: str | None = None
        self.tokens: dict[str, tuple[str, ...]] = {}

        self.knows_ranges = True
        self.takes_pieces = True
        self.keeps_addresses = False
        self.checks_pieces = True
        self.relative_locations = False
        self.least_piece_bytes = 0
        self.blobs_at: str | None = None
        self.uploads_at: str | None = None
        self.keeps_connections = True  # False for clients that nobody closes
        self.lists = True
        self.deletes = True
        self.mounts = True

    def grant(self, scopes: tuple[str, ...]) -> str:
        token = secrets.token_urlsafe(12)
        self.tokens[token] = scopes
        return token

    def expire_tokens(self) -> None:
        """No token that was granted so far is accepted any more."""
        with self.lock:
            self.tokens.clear()

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None
