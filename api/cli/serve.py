"""``corral serve``: starts the server. The only command that imports Litestar."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from corral.api.cli.logs import set_up_logging
from corral.api.cli.output import human_bytes
from corral.api.cli.parameters import Registered
from corral.api.cli.session import Session
from corral.core.errors import CorralError, SettingsError
from corral.core.wording.pip_lines import pip_line
from corral.plugins.assembly import ENGINES, RUNNERS, Address, Assembly, ServerSettings, assemble

if TYPE_CHECKING:
    from corral.api.http.settings import HttpSettings
    from corral.core.runtime import Runtime

__all__ = ("http_settings", "serve")

_log = logging.getLogger("corral")


@click.command()
@click.option("--host", metavar="HOST[:PORT]", help="Address to listen on, or unix:PATH for a Unix socket.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on, if --host names none.")
@click.option("--models", metavar="FOLDER", help="The model folder, in Ollama's layout.")
@click.option("--engine", type=Registered(ENGINES), help="The engine to use for every model.")
@click.option("--runner", type=Registered(RUNNERS), help="Where models run: process or thread.")
@click.option("--log-level", type=click.Choice(["trace", "debug", "info", "warning", "error"]), help="How much to log.")
@click.option("--log-json", is_flag=True, default=None, help="Log one JSON object per line.")
@click.pass_obj
def serve(
    session: Session,
    host: str | None,
    port: int | None,
    models: str | None,
    engine: str | None,
    runner: str | None,
    log_level: str | None,
    log_json: bool | None,
) -> None:
    """Start the server. On SIGINT or SIGTERM it lets running requests finish for a while, then exits."""
    if host is not None and port is not None and _names_port(host):
        raise click.UsageError(f"--host {host} already says where to listen: leave out --port")
    session.set(
        server__host=host,
        store=None if models is None else "filesystem",
        stores__filesystem__root=models,
        scheduler__engine=engine,
        scheduler__runner=runner,
        log__level=log_level,
        log__json=log_json,
    )
    settings = session.settings
    set_up_logging(settings.log.level, as_json=settings.log.json)
    try:
        from corral.api.http.app import create_app
        from corral.api.http.serve import run_event_loop
        from corral.api.http.serve import serve as serve_app
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("corral"):
            raise
        raise SettingsError(f"the server needs {missing.name}", pip_line("corral[server]")) from missing
    http = http_settings(settings.server, port)

    async def run() -> None:
        assembly = await assemble(session.layers, default_runner="process", manager=session.manager)
        authenticator = None
        pruning = asyncio.create_task(_prune(assembly.runtime)) if settings.prune else None
        try:
            authenticator = await assembly.authenticator()
            await _say_who_may_come(assembly, http)
            app = create_app(assembly.runtime, assembly.routers(), http, authenticator)
            await serve_app(app, http, on_ready=_ready)
        finally:
            if authenticator is not None:
                await authenticator.aclose()
            if pruning is not None:
                pruning.cancel()
                await asyncio.gather(pruning, return_exceptions=True)
            await assembly.aclose()

    run_event_loop(run())


def http_settings(server: ServerSettings, port: int | None = None) -> HttpSettings:
    """The section ``[server]`` as the HTTP server takes it; `port` replaces that of the address."""
    from corral.api.http.settings import HttpSettings

    address = _with_port(server.host, port)
    return HttpSettings(
        host=address.host,
        port=address.port,
        unix_socket=address.unix_path,
        origins=server.origins,
        max_body_bytes=server.max_body_bytes,
        max_head_bytes=server.max_head_bytes,
        max_connections=server.max_connections,
        head_timeout_s=server.head_timeout.limit_s,
        body_timeout_s=server.body_timeout.limit_s,
        idle_timeout_s=server.idle_timeout.limit_s,
        reader_timeout_s=server.reader_timeout.limit_s,
        shutdown_grace_s=round(server.shutdown_grace.seconds),
    )


def _with_port(address: Address, port: int | None) -> Address:
    if port is None or address.unix_path is not None:
        return address
    host = f"[{address.host}]" if ":" in address.host else address.host
    return Address(f"{host}:{port}")


def _names_port(host: str) -> bool:
    """Whether the address already includes a port, or needs none."""
    if host.startswith("unix:"):
        return True
    try:
        return urlsplit(host if "://" in host else f"//{host}").port is not None
    except ValueError:
        return False


async def _say_who_may_come(assembly: Assembly, http: HttpSettings) -> None:
    """Logs what whoever starts a server should know about who can use it. Raises `StorageError` for broken keys."""
    from corral.api.http.origins import is_loopback

    auth = assembly.settings.server.auth
    if auth == "off" and http.unix_socket is None and not is_loopback(http.host):
        _log.warning(
            'everyone who reaches %s may use this server, and change its models: server.auth = "keys" asks for keys',
            http.host,
        )
    elif auth == "keys" and not await assembly.runtime.keys.list():
        _log.warning("nobody has a key yet: corral keys create NAME makes one")


async def _prune(runtime: Runtime) -> None:
    """Deletes what no model needs, beside the first requests: blobs that share bytes with other files may be hashed."""
    try:
        report = await runtime.garbage.collect()
    except CorralError as error:
        _log.warning("deleted nothing from the store: %s", error)
        return
    if report.removed:
        _log.info("deleted %d files that no model needs (%s)", len(report.removed), human_bytes(report.removed_bytes))


def _ready(address: Any) -> None:
    _log.info("Corral listens on %s", address)
