"""What can be set: one Struct per section. All checks, ``corral config`` and docs/settings.md are derived from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from corral.adapters.web.settings import WebSettings
from corral.core.scheduling.load_options import YieldingOption
from corral.plugins.settings.responses import ResponsesSettings
from corral.plugins.settings.types import Address, Duration

__all__ = (
    "CliSettings",
    "LogSettings",
    "ModelSettings",
    "Origin",
    "PluginsSettings",
    "SchedulerSection",
    "ServerSettings",
    "Settings",
    "TopSettings",
    "default_config_path",
)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[server]``"""

    host: Annotated[
        Address,
        Meta(description="Where the server listens and where commands look for it: HOST[:PORT], a URL or unix:PATH."),
    ] = Address("127.0.0.1:11434")
    auth: Annotated[
        str,
        Meta(
            description="Who may use the server: `off` means everyone who reaches it, `keys` those with a key of "
            "`corral keys`; or the name of a plugin's authenticator."
        ),
    ] = "off"
    origins: Annotated[
        tuple[str, ...], Meta(description="Browser origins allowed besides local ones; each may contain one `*`.")
    ] = ()
    max_body_bytes: Annotated[
        int,
        Meta(
            gt=0,
            description="The largest request body; a larger one gets status 413. Together, the bodies of all running "
            "requests take at most two and a half times as much memory; further requests wait.",
        ),
    ] = 64 * 1024 * 1024
    max_head_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=16 * 1024 * 1024,
            description="The largest request without its body: URL, headers, trailers, chunk extensions.",
        ),
    ] = 1024 * 1024
    max_connections: Annotated[
        int, Meta(ge=1, description="Maximum number of open connections; a low limit on open files allows fewer.")
    ] = 2048
    head_timeout: Annotated[
        Duration, Meta(description="How long a client may take to send the head of a request; 0 means no limit.")
    ] = Duration("30s")
    body_timeout: Annotated[
        Duration,
        Meta(description="How long a client may take to send a body, plus a second per KiB sent; 0 means no limit."),
    ] = Duration("1m")
    idle_timeout: Annotated[
        Duration, Meta(description="How long a connection may stay open between requests; 0 means no limit.")
    ] = Duration("75s")
    reader_timeout: Annotated[
        Duration,
        Meta(description="How long a client may leave an answer unread before it is cut off; 0 means no limit."),
    ] = Duration("30s")
    shutdown_grace: Annotated[
        Duration, Meta(description="How long running requests may continue once the server is asked to stop.")
    ] = Duration("10s")


class SchedulerSection(msgspec.Struct, frozen=True, kw_only=True):
    """``[scheduler]``"""

    engine: Annotated[
        str | None, Meta(description="The engine to use for every model; if unset, the one that suits each model best.")
    ] = None
    engine_order: Annotated[
        tuple[str, ...],
        Meta(description="Engines to prefer, in this order, among those that suit a model equally well."),
    ] = ()
    runner: Annotated[
        str | None,
        Meta(
            description="Where models run: `process` (the server's default), `thread` (the library's), or a plugin's."
        ),
    ] = None
    keep_alive: Annotated[
        Duration,
        Meta(description="How long an idle model stays loaded; negative means indefinitely, 0 unloads at once."),
    ] = Duration("5m")
    load_timeout: Annotated[
        Duration, Meta(description="How long loading may go on without progress; 0 or negative means no limit.")
    ] = Duration("5m")
    max_loaded_models: Annotated[
        int, Meta(ge=0, description="Maximum number of loaded models; 0 means the default (3).")
    ] = 0
    max_queue: Annotated[
        int,
        Meta(
            ge=1,
            description="How many requests of one key may wait for a model to load, or for a free stream of a "
            "loaded model. Without keys, all requests count together.",
        ),
    ] = 512


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[log]``"""

    level: Annotated[
        Literal["trace", "debug", "info", "warning", "error"], Meta(description="The lowest level that is logged.")
    ] = "info"
    json: Annotated[bool, Meta(description="Log one JSON object per line.")] = False


class CliSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[cli]``"""

    history: Annotated[bool, Meta(description="Whether `corral run` saves what you type to a history file.")] = True
    api_key: Annotated[
        str, Meta(description="The key that commands send to a server which asks for one.", extra={"secret": True})
    ] = ""


class PluginsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[plugins]``, which is read before any plugin is loaded."""

    allow: Annotated[
        tuple[str, ...] | None, Meta(description="The only plugins to load; the built-in one is always loaded.")
    ] = None
    block: Annotated[tuple[str, ...], Meta(description="Plugins not to load; takes precedence over `allow`.")] = ()
    load_timeout: Annotated[
        Duration,
        Meta(description="How long importing a plugin, or creating one of its objects, may take; 0 means no limit."),
    ] = Duration("10s")


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[models."NAME"]``: settings of one model. A request's options override them; they override the manifest's."""

    engine: Annotated[str | None, Meta(description="The engine for this model.")] = None
    options: Annotated[dict[str, Any], Meta(description="Options as in a request: `num_ctx`, `temperature`, …")] = {}


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """An effective setting: its path, its value as plain data, and where it was set."""

    path: str
    value: Any
    origin: str


class TopSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is set outside of any section."""

    store: Annotated[
        str,
        Meta(
            description="The store that holds the models: a folder in Ollama's layout, `oci-layout:FOLDER`, "
            "`oci://HOST/PREFIX`, or the name of a store."
        ),
    ] = "filesystem"
    store_layers: Annotated[
        tuple[str, ...], Meta(description="Stores below that one, the topmost first, which are only read.")
    ] = ()
    registry: Annotated[
        str,
        Meta(
            description="The scheme that references without one are read with: `llama3.2` means `ollama://llama3.2`. "
            "If empty, they are not read."
        ),
    ] = "ollama"
    prune: Annotated[
        bool,
        Meta(
            description="Whether the server deletes what no model needs when it starts, and a model that is replaced "
            "loses the files that only it had."
        ),
    ] = True
    go_template: Annotated[
        bool | None,
        Meta(
            description="Whether Go templates of manifests are used: always, never, or if unset, unless the template "
            "in the weights offers more."
        ),
    ] = None


class Settings(TopSettings, frozen=True, kw_only=True):
    """All effective settings.

    `engines` and `converters` hold what was stated in their sections, by name; their defaults are added when a model is
    loaded or converted. `yielding` has the options of `engines` that Ollama's variables set, by engine and name.
    `parts` holds the decoded sections of everything else that plugins register, by section and name
    (``parts["stores"]["filesystem"]``). `origins` has a row for every setting.
    """

    server: ServerSettings = ServerSettings()
    scheduler: SchedulerSection = SchedulerSection()
    log: LogSettings = LogSettings()
    cli: CliSettings = CliSettings()
    web: WebSettings = WebSettings()
    responses: ResponsesSettings = ResponsesSettings()
    plugins: PluginsSettings = PluginsSettings()
    models: Mapping[str, ModelSettings] = {}
    engines: Mapping[str, Mapping[str, Any]] = {}
    yielding: Mapping[str, Mapping[str, YieldingOption]] = {}
    converters: Mapping[str, Mapping[str, Any]] = {}
    parts: Mapping[str, Mapping[str, msgspec.Struct]] = {}
    origins: tuple[Origin, ...] = ()


SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "server": ServerSettings,
    "scheduler": SchedulerSection,
    "log": LogSettings,
    "cli": CliSettings,
    "web": WebSettings,
    "responses": ResponsesSettings,
    "plugins": PluginsSettings,
}
"""The sections of Corral itself, in the order in which they are shown."""


def default_config_path(environment: Mapping[str, str] = os.environ) -> str:
    """The user's own settings file: ``$XDG_CONFIG_HOME/corral/config.toml``, whether or not it exists."""
    folder = environment.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(folder, "corral", "config.toml")
