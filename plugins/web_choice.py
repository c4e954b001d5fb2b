"""What the settings say about the web: who searches it, and whether its pages are fetched."""

from __future__ import annotations

from typing import Any

from corral.adapters.web.page_fetcher import WebPageFetcher
from corral.core.ports.jobs import JobRunner
from corral.core.ports.web import SearchProvider
from corral.core.web.access import WebAccess
from corral.plugins.hook_kinds import Factories
from corral.plugins.manager import PluginManager
from corral.plugins.parts import make_selected
from corral.plugins.settings.schema import Settings

__all__ = ("web_access",)


def web_access(
    manager: PluginManager, settings: Settings, kind: Factories[Any, SearchProvider], jobs: JobRunner
) -> WebAccess:
    """The use case of the web; by default, it refuses everything. `kind` is that of search providers.

    Blocks for as long as a plugin may take. Raises `SettingsError` and `PluginError`.
    """
    chosen, provider = settings.web, None
    if chosen.search:
        provider = make_selected(manager, kind, chosen.search, settings.parts[kind.plural], "web.search")
    fetches = provider is not None if chosen.fetch is None else chosen.fetch
    fetcher = WebPageFetcher(chosen, jobs) if fetches else None
    return WebAccess(provider, fetcher, limit_s=chosen.total_timeout_s)
