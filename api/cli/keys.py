"""``corral keys``: creates, lists and revokes the keys of this machine's server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import click

from corral.api.cli.output import echo, human_time, iso_time, print_json, print_table
from corral.api.cli.parameters import Checked
from corral.api.cli.session import Session
from corral.core.errors import InvalidOption
from corral.core.ports.access_keys import AccessKey
from corral.core.requests.principal import SCOPES, Principal, RequestLimits, Scope
from corral.core.wording.suggestions import did_you_mean

__all__ = ("keys",)

_UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST_S = 100 * 365 * 86400


class _Scopes(Checked[tuple[Scope, ...]]):
    """Scopes, separated by commas."""

    def read(self, text: str, context: click.Context | None) -> tuple[Scope, ...]:
        words = [word.strip() for word in text.split(",") if word.strip()]
        for word in words:
            if word not in SCOPES:
                listed = f"choose among {', '.join(SCOPES)}"
                raise InvalidOption(f"there is no scope {word!r}", did_you_mean(word, SCOPES, listed))
        if not words:
            raise InvalidOption("no scope is given", f"choose among {', '.join(SCOPES)}")
        return tuple(scope for scope in SCOPES if scope in words)

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        return SCOPES


class _Lifetime(Checked[float]):
    """``30d``: a number of minutes, hours, days or weeks, in seconds."""

    name = "duration"

    def read(self, text: str, context: click.Context | None) -> float:
        found = re.fullmatch(r"(\d{1,9})([mhdw])", text.strip().lower())
        seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
        if not 0 < seconds <= _LONGEST_S:
            raise InvalidOption(f"not a time after which a key may expire: {text!r}", "for example 12h, 30d or 8w")
        return seconds


class _KeyName(Checked[str]):
    """The name of a key."""

    def read(self, text: str, context: click.Context | None) -> str:
        return text

    def words(self, session: Session, context: click.Context) -> Iterable[str]:
        return [key.principal.name for key in _listed(session)]


@click.group()
def keys() -> None:
    """Create, list and revoke the keys of this machine's server, which asks for them if server.auth is "keys"."""


@keys.command()
@click.argument("name")
@click.option("--models", metavar="GLOB", multiple=True, help="Models it may use, such as llama3*; may be repeated.")
@click.option(
    "--scopes", type=_Scopes(), metavar="SCOPE,…", default="infer", show_default=True, help="infer, manage, admin."
)
@click.option("--rpm", type=click.IntRange(1), help="How many requests per minute it may make.")
@click.option("--tpm", type=click.IntRange(1), help="How many tokens per minute it may use, prompts included.")
@click.option("--parallel", type=click.IntRange(1), help="How many of its requests may be in progress at once.")
@click.option("--private-prefixes", is_flag=True, help="Share no computed prefixes of prompts with other keys.")
@click.option("--expires", type=_Lifetime(), metavar="DURATION", help="When it expires: 12h, 30d, 8w.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def create(
    session: Session,
    name: str,
    models: tuple[str, ...],
    scopes: tuple[Scope, ...],
    rpm: int | None,
    tpm: int | None,
    parallel: int | None,
    private_prefixes: bool,
    expires: float | None,
    as_json: bool,
) -> None:
    """Create a key called NAME, and print it: it is shown this once.

    With the scope infer it may use models, with manage also change the store, with admin do everything.
    """
    globs = tuple(glob.strip() for given in models for glob in given.split(",") if glob.strip())
    if models and not globs:
        raise InvalidOption("--models names no model", "leave it out for a key to all models")
    principal = Principal(
        name=name,
        scopes=frozenset(scopes),
        models=globs or ("*",),
        limits=RequestLimits(requests_per_minute=rpm, tokens_per_minute=tpm, parallel=parallel),
        shares_prefixes=not private_prefixes,
    )
    expires_at = None if expires is None else time.time() + expires
    with session.library() as corral:
        access = corral.runtime().keys
        key = corral.call(lambda _: access.create(principal, expires_at))
        [made] = [one for one in corral.call(lambda _: access.list()) if one.principal.name == name]
    if as_json:
        print_json({"key": key, **_as_json(made)})
        return
    echo(key)
    echo("This key is not shown again. Clients send it as their API key, commands from CORRAL_API_KEY.", err=True)
    if session.settings.server.auth == "off":
        echo('The server asks for keys once it is started with server.auth = "keys", or CORRAL_AUTH=keys.', err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_(session: Session, as_json: bool) -> None:
    """List the keys, without their secrets."""
    found = _listed(session)
    if as_json:
        print_json([_as_json(key) for key in found])
        return
    print_table(
        ("NAME", "KEY", "SCOPES", "MODELS", "LIMITS", "CREATED", "EXPIRES"),
        [
            (
                key.principal.name,
                f"{key.shown}-…",
                ",".join(scope for scope in SCOPES if scope in key.principal.scopes),
                ",".join(key.principal.models),
                _limits_text(key.principal.limits),
                human_time(key.created_at),
                _expiry_text(key.expires_at),
            )
            for key in found
        ],
    )


@keys.command()
@click.argument("name", type=_KeyName())
@click.pass_obj
def revoke(session: Session, name: str) -> None:
    """Revoke the key called NAME. A running server refuses it within two seconds."""
    with session.library() as corral:
        access = corral.runtime().keys
        was_there = corral.call(lambda _: access.revoke(name))
    if not was_there:
        known = [key.principal.name for key in _listed(session)]
        remedy = did_you_mean(name, known, "corral keys list shows the keys")
        raise click.UsageError(f"There is no key {name!r}.\n{remedy}")
    echo(f"revoked {name}")


def _listed(session: Session) -> list[AccessKey]:
    with session.library() as corral:
        access = corral.runtime().keys
        return corral.call(lambda _: access.list())


def _as_json(key: AccessKey) -> dict[str, object]:
    limits = key.principal.limits
    return {
        "name": key.principal.name,
        "shown": key.shown,
        "scopes": [scope for scope in SCOPES if scope in key.principal.scopes],
        "models": list(key.principal.models),
        "rpm": limits.requests_per_minute,
        "tpm": limits.tokens_per_minute,
        "parallel": limits.parallel,
        "private_prefixes": not key.principal.shares_prefixes,
        "created_at": iso_time(key.created_at),
        "expires_at": None if key.expires_at is None else iso_time(key.expires_at),
    }


def _limits_text(limits: RequestLimits) -> str:
    parts = ((limits.requests_per_minute, "rpm"), (limits.tokens_per_minute, "tpm"), (limits.parallel, "parallel"))
    return ", ".join(f"{count} {unit}" for count, unit in parts if count is not None) or "-"


def _expiry_text(expires_at: float | None) -> str:
    if expires_at is None:
        return "never"
    return human_time(expires_at) if expires_at > time.time() else f"expired {human_time(expires_at)}"
