"""What plugins register besides engines and converters: one small spec for each kind of hook."""

from __future__ import annotations

from corral.plugins.specs import AddressedSpec, FactorySpec, LazySpec

__all__ = (
    "AnswerParserSpec",
    "AuthenticatorSpec",
    "ChatLanguageSpec",
    "CommandSpec",
    "ManifestFormatSpec",
    "MetadataReaderSpec",
    "RegistrySpec",
    "RouteSpec",
    "RunnerSpec",
    "SearchProviderSpec",
    "SourceSpec",
    "StoreSpec",
    "ToolCallFormatSpec",
)


class RunnerSpec(FactorySpec, frozen=True, kw_only=True):
    """A place where models run: ``(settings) -> Runner``."""


class StoreSpec(AddressedSpec, frozen=True, kw_only=True):
    """A place where models are kept: ``(settings) -> Stores``.

    `address` is the field of its settings that gets what follows ``NAME:`` in the setting ``store = "NAME:…"``. With
    `registry`, the name of a `RegistrySpec`, the factory is ``(settings, registry) -> Stores``.
    """


class SourceSpec(FactorySpec, frozen=True, kw_only=True):
    """A place to pull models from; `name` is the scheme (``pypi``): ``(settings) -> ModelSource``."""


class RegistrySpec(FactorySpec, frozen=True, kw_only=True):
    """A registry of manifests and blobs; `name` is the first of its schemes: ``(settings) -> Registry``."""


class ManifestFormatSpec(FactorySpec, frozen=True, kw_only=True):
    """A format of manifests: ``(settings) -> ManifestFormat``."""


class MetadataReaderSpec(FactorySpec, frozen=True, kw_only=True):
    """A format of weights whose header can be read without the engine: ``(settings) -> MetadataReader``."""


class ChatLanguageSpec(FactorySpec, frozen=True, kw_only=True):
    """A language of chat templates; `name` is the `kind` of their texts: ``(settings) -> ChatLanguage``."""


class AnswerParserSpec(FactorySpec, frozen=True, kw_only=True):
    """A parser of thinking, which chat formats may choose by `name`: ``(settings) -> AnswerParserFactory``."""


class ToolCallFormatSpec(FactorySpec, frozen=True, kw_only=True):
    """A format of tool calls, which chat formats may choose by `name`: ``(settings) -> ToolCallFormat``."""


class AuthenticatorSpec(FactorySpec, frozen=True, kw_only=True):
    """A way to tell who sends a request, which ``server.auth`` selects by name: ``(settings) -> Authenticator``."""


class SearchProviderSpec(FactorySpec, frozen=True, kw_only=True):
    """A service that searches the web, which ``web.search`` selects by name: ``(settings) -> SearchProvider``."""


class RouteSpec(LazySpec, frozen=True, kw_only=True):
    """HTTP routes: `target` is a ``litestar.Router``, which only ``corral serve`` imports."""


class CommandSpec(LazySpec, frozen=True, kw_only=True):
    """A subcommand of ``corral``: `target` is a ``click.Command``, imported when the command is called.

    `summary` is its line in ``corral --help``.
    """

    summary: str = ""
