"""``corral login`` and ``logout``: how registries know the user of this machine."""

from __future__ import annotations

import sys

import click

from corral.api.cli.output import echo
from corral.api.cli.session import Session

__all__ = ("login", "logout")

_OLLAMA = ("ollama.com", "registry.ollama.ai")
_HUGGING_FACE = ("hf.co", "huggingface.co")


@click.command()
@click.argument("host", required=False)
@click.option("--username", "-u", "user", help="The user name; asked for if it is not given.")
@click.option("--password-stdin", is_flag=True, help="Read the password, or a token, from standard input.")
@click.option("--insecure", is_flag=True, help="Reach the registry without TLS.")
@click.pass_obj
def login(session: Session, host: str | None, user: str | None, password_stdin: bool, insecure: bool) -> None:
    """Log in to the registry HOST, for pull and push from this machine.

    Without HOST, or for ollama.com: print the public key by which Ollama's registry knows this machine.
    """
    if host is None or host.lower() in _OLLAMA:
        if user or password_stdin:
            raise click.UsageError("Ollama's registry knows machines by their key, not by a password.")
        with session.library() as corral:
            logins = corral.runtime().logins
            key = corral.call(lambda _: logins.public_key())
        echo(key)
        echo("Add this key to your account, at ollama.com/settings/keys.", err=True)
        return
    # A token of Hugging Face says whose it is.
    user = user or ("token" if host.lower() in _HUGGING_FACE else None)
    if password_stdin:
        if user is None:
            raise click.UsageError("--password-stdin needs --username.")
        secret = sys.stdin.readline().rstrip("\r\n")
    else:
        if not sys.stdin.isatty():
            raise click.UsageError("There is no terminal to ask for the password: use --password-stdin.")
        user = user or click.prompt("Username", err=True)
        secret = click.prompt("Password or token", hide_input=True, err=True)
    if not secret:
        raise click.UsageError("The password is empty.")
    name, place = user, host
    with session.library() as corral:
        logins = corral.runtime().logins
        corral.call(lambda _: logins.login(place, name, secret, insecure=insecure))
    echo(f"logged in to {host}")


@click.command()
@click.argument("host")
@click.pass_obj
def logout(session: Session, host: str) -> None:
    """Forget the login for the registry HOST. Logins that Docker or Podman keep are left alone."""
    with session.library() as corral:
        logins = corral.runtime().logins
        was_there = corral.call(lambda _: logins.logout(host))
    echo(f"logged out of {host}" if was_there else f"there was no login for {host}")
