"""Who a request is for, as far as rights go: a name, scopes, models and limits."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

from corral.core.values import Value

__all__ = ("ALL_SCOPES", "EVERYONE", "SCOPES", "Principal", "RequestLimits", "Scope")

Scope = Literal["infer", "manage", "admin"]
"""What a principal may do. ``infer``: use models, and see them. ``manage``: change the store, and have the server
connect to registries, sources and other servers. ``admin``: everything, also what no other scope covers."""

SCOPES: tuple[Scope, ...] = ("infer", "manage", "admin")
ALL_SCOPES: frozenset[Scope] = frozenset(SCOPES)

_DEFAULT_TAG = ":latest"


class RequestLimits(Value, frozen=True, kw_only=True):
    """How much a principal may ask for; None is no limit.

    `tokens_per_minute` counts those of prompts and answers, `parallel` the requests that are in progress at once.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel: int | None = None


class Principal(Value, frozen=True, kw_only=True):
    """Someone who makes requests. Requests of one `name` share its limits and its place in queues.

    `models` are patterns of the names that it may use, with ``*``, ``?`` and ``[…]`` as in a shell. Unless it
    `shares_prefixes`, nothing that was computed of others' prompts is reused for its own, nor the other way round.
    """

    name: str
    scopes: frozenset[Scope] = frozenset({"infer"})
    models: tuple[str, ...] = ("*",)
    limits: RequestLimits = RequestLimits()
    shares_prefixes: bool = True

    @property
    def prefix_scope(self) -> str:
        """Whose prompts may reuse the prefixes of its prompts, as a name; empty for all who share theirs."""
        return "" if self.shares_prefixes else self.name

    @property
    def may_use_all(self) -> bool:
        """Whether it may use every model there is or will be."""
        return "*" in self.models

    def has(self, scope: Scope) -> bool:
        """Whether it has this scope; ``admin`` includes the others."""
        return scope in self.scopes or "admin" in self.scopes

    def may_use(self, short_name: str) -> bool:
        """Whether it may use the model whose shortest name with its tag is this (`ModelName.short`), in any case.

        A pattern without a tag means the tag ``latest`` as well.
        """
        if self.may_use_all:
            return True
        name = short_name.lower()
        names = {name, name.removesuffix(_DEFAULT_TAG)}
        return any(fnmatchcase(one, pattern.lower()) for one in names for pattern in self.models)


EVERYONE = Principal(name="anonymous", scopes=ALL_SCOPES)
"""The principal of all requests to a server without keys, and of the library and the command line."""
