"""The table of hooks: every kind of thing that plugins register, in the order in which the hooks are called.

The hooks themselves, the checks, the settings' sections, the making of parts and the documentation follow from it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from corral.core.errors import StorageError, Unsupported
from corral.core.models.model import Model, ModelMetadata
from corral.core.ports.answer_parsers import AnswerParserFactory, ToolCallFormat
from corral.core.ports.authenticators import Authenticator
from corral.core.ports.chat import ChatLanguage
from corral.core.ports.manifests import ManifestBlob, ManifestFormat
from corral.core.ports.metadata import JoinedWeights, MetadataReader, SplitPart
from corral.core.ports.registries import Registry
from corral.core.ports.runners import Runner
from corral.core.ports.sources import ModelSource
from corral.core.ports.web import SearchProvider
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import EngineSpec
from corral.plugins.guarded_parsers import GuardedCallFormat, GuardedParsers
from corral.plugins.guarded_parts import (
    GuardedAuthenticator,
    GuardedLanguage,
    GuardedPart,
    GuardedRegistry,
    GuardedSource,
)
from corral.plugins.guarded_search import GuardedSearch
from corral.plugins.hook_checks import (
    check_address,
    check_converter,
    check_engine,
    check_registry,
    check_source,
    check_stores,
)
from corral.plugins.hook_kinds import Factories, HookKind, Targets, implements
from corral.plugins.hook_specs import (
    AnswerParserSpec,
    AuthenticatorSpec,
    ChatLanguageSpec,
    CommandSpec,
    ManifestFormatSpec,
    MetadataReaderSpec,
    RegistrySpec,
    RouteSpec,
    RunnerSpec,
    SearchProviderSpec,
    SourceSpec,
    StoreSpec,
    ToolCallFormatSpec,
)
from corral.plugins.specs import Stores

__all__ = (
    "ANSWER_PARSERS",
    "AUTHENTICATORS",
    "CHAT_LANGUAGES",
    "COMMANDS",
    "CONVERTERS",
    "ENGINES",
    "HOOKS",
    "MANIFEST_FORMATS",
    "METADATA_READERS",
    "REGISTRIES",
    "ROUTES",
    "RUNNERS",
    "SEARCH_PROVIDERS",
    "SOURCES",
    "STORES",
    "TOOL_CALL_FORMATS",
)


ENGINES: Final = HookKind(
    plural="engines",
    noun="engine",
    spec_type=EngineSpec,
    doc="""Engines load and run models: an `EngineSpec`, with the import path of its `load` function. This hook is
called first. A model with a LoRA adapter runs only on an engine whose spec says `adapters=True`.""",
    settings="load_options",
    check=check_engine,
)

CONVERTERS: Final = HookKind(
    plural="converters",
    noun="converter",
    spec_type=ConverterSpec,
    doc="""Converters turn a model into one that another engine can run: a `ConverterSpec`, with the import path of
its `convert` function. An engine's `match` names the converter whose result it needs.""",
    settings="parameters",
    check=check_converter,
)

RUNNERS: Final[Factories[RunnerSpec, Runner]] = Factories(
    plural="runners",
    noun="runner",
    spec_type=RunnerSpec,
    doc="""Runners host loaded models: a `RunnerSpec`, whose factory returns a `Runner`. An engine's spec says which
runners it allows.""",
    check_part=implements(Runner),
)

STORES: Final[Factories[StoreSpec, Stores]] = Factories(
    plural="stores",
    noun="store",
    spec_type=StoreSpec,
    doc="""Stores hold models: a `StoreSpec`, whose factory returns `Stores(blobs=…, manifests=…, local=…)`. The
setting `store` selects one, by its name or by an address: `store = "NAME:PLACE"` puts `PLACE` into the field of its
settings that the spec's `address` names. Only the selected store is created, and those in `store_layers`.""",
    check=check_address,
    check_part=check_stores,
    selected=True,
)

SOURCES: Final[Factories[SourceSpec, ModelSource]] = Factories(
    plural="sources",
    noun="source",
    spec_type=SourceSpec,
    doc="""Sources provide models to pull: a `SourceSpec`, whose `name` is the scheme (`pypi`) and whose factory
returns a `ModelSource`.""",
    check_part=check_source,
    guard=GuardedSource,
)

REGISTRIES: Final[Factories[RegistrySpec, Registry]] = Factories(
    plural="registries",
    noun="registry",
    spec_type=RegistrySpec,
    doc="""Registries hold manifests and blobs, as OCI registries do: a `RegistrySpec`, whose factory returns a
`Registry`; `name` is the first of the schemes that it reads. `corral pull SCHEME://[HOST/]PATH[:TAG][@DIGEST]` stores
a manifest as it is, so that it keeps its digest; one of the manifest formats must be able to read it. `corral push
MODEL REFERENCE` publishes one. References without a scheme are read with the one that the setting `registry` names.
`MemoryRegistry` in `corral.plugins.testing.registry` is an example, and
`RegistryContract` tests what a registry promises.""",
    check_part=check_registry,
    guard=GuardedRegistry,
)

MANIFEST_FORMATS: Final[Factories[ManifestFormatSpec, ManifestFormat]] = Factories(
    plural="manifest_formats",
    noun="manifest format",
    spec_type=ManifestFormatSpec,
    doc="""A manifest format: a `ManifestFormatSpec`, whose factory returns a `ManifestFormat`. The first one that
recognizes a manifest reads it.""",
    check_part=implements(ManifestFormat),
    guard=partial(
        GuardedPart,
        yes_or_no="recognises",
        results={"read": Model, "blobs": tuple[ManifestBlob, ...], "write": tuple[bytes, tuple[bytes, ...]]},
        validates=True,
        raises=(StorageError, Unsupported),
    ),
)

METADATA_READERS: Final[Factories[MetadataReaderSpec, MetadataReader]] = Factories(
    plural="metadata_readers",
    noun="metadata reader",
    spec_type=MetadataReaderSpec,
    doc="""A reader of the headers of a weights format, independent of any engine: a `MetadataReaderSpec`, whose
factory returns a `MetadataReader`. The first one that recognizes a file reads it. Its methods get a
`RandomAccess` (`name`, `size_bytes`, `read(offset_bytes, length_bytes)`): a local file, or a blob in a
store, so that the header of a model in a remote store is read without fetching the weights.
`RandomAccessFile(path)` opens a file as one, and `buffered(source)` makes a file object of one. If weights of the
format can be split into several files, the reader has the methods of a `SplitReader` as well.""",
    check_part=implements(MetadataReader),
    guard=partial(
        GuardedPart,
        yes_or_no="recognises",
        results={
            "read": ModelMetadata,
            "describe": dict[str, object],
            "tensors": list[tuple[str, str, tuple[int, ...]]],
            "part": SplitPart | None,
            "join": JoinedWeights,
        },
        validates=True,
    ),
)

CHAT_LANGUAGES: Final[Factories[ChatLanguageSpec, ChatLanguage]] = Factories(
    plural="chat_languages",
    noun="chat language",
    spec_type=ChatLanguageSpec,
    doc="""A language that chat templates are written in: a `ChatLanguageSpec`, whose `name` is the `kind` of the texts
that it compiles (`jinja`) and whose factory returns a `ChatLanguage`. Its `compile` makes a `ChatFormat` of a text.
`ChatFormat.render` returns a `RenderedChat`: the prompt, and what belongs to the answer, above all the `parser` that
reads it. It receives `control`, the model's control tokens: any of them that appears in the text of a message or a
tool must become a part of its own, with `parse_special` off. A `TypedText` does that for any language: it marks the
texts on their way into the template, and makes the prompt of what comes out. Rendering runs in a thread; a slow
template should check `abandoned()` and stop.
With `interruptible = True`, a format promises to check at each step; short chats then need no thread.""",
    check_part=implements(ChatLanguage),
    guard=GuardedLanguage,
)

ANSWER_PARSERS: Final[Factories[AnswerParserSpec, AnswerParserFactory]] = Factories(
    plural="answer_parsers",
    noun="answer parser",
    spec_type=AnswerParserSpec,
    doc="""A parser that tells thinking from the visible text of answers: an `AnswerParserSpec`, whose
factory returns an `AnswerParserFactory`. Its `think_tags` are asked for the template of each model, and its `open` is
called for each answer of the models that it knows, or whose chat format chooses it by name (`RenderedChat.parsers`).
The `AnswerParser` is fed one `Delta` after the other in the event loop, and returns the deltas
that it makes of them. It holds text back only while that may be the beginning of a mark, and `finish` returns the rest.
An exception ends that answer with an error that names the plugin.""",
    check_part=implements(AnswerParserFactory),
    guard=GuardedParsers,
)

TOOL_CALL_FORMATS: Final[Factories[ToolCallFormatSpec, ToolCallFormat]] = Factories(
    plural="tool_call_formats",
    noun="tool call format",
    spec_type=ToolCallFormatSpec,
    doc="""A way of writing tool calls: a `ToolCallFormatSpec`, whose factory returns a `ToolCallFormat`. It is used for
the models whose template it `recognises`, before a built-in format that knows it too, and those whose chat format names
it (`RenderedChat.parsers`). Its `open` returns an `AnswerParser`, which reads the visible text of an answer and returns
the calls in it; `call_grammar` describes such answers, so that a call can be required and its arguments
held to the schema of the tool.""",
    check_part=implements(ToolCallFormat),
    guard=GuardedCallFormat,
)

AUTHENTICATORS: Final[Factories[AuthenticatorSpec, Authenticator]] = Factories(
    plural="authenticators",
    noun="authenticator",
    spec_type=AuthenticatorSpec,
    doc="""A way to tell who sends a request to the server: an `AuthenticatorSpec`, whose factory returns an
`Authenticator`. The setting `server.auth` selects one by its name; only that one is created, by `corral serve`. Its
`authenticate` gets what a request says about its sender and returns the `Principal`, with scopes, models and limits.
It is called in the event loop for every request, so it should remember for a second or two what it asked elsewhere.
`AuthenticatorContract` in `corral.plugins.testing.authenticator` tests what an authenticator promises.""",
    check_part=implements(Authenticator),
    guard=GuardedAuthenticator,
    selected=True,
)

SEARCH_PROVIDERS: Final[Factories[SearchProviderSpec, SearchProvider]] = Factories(
    plural="search_providers",
    noun="search provider",
    spec_type=SearchProviderSpec,
    doc="""A service that searches the web: a `SearchProviderSpec`, whose factory returns a `SearchProvider`. The
setting `web.search` selects one by its name; only that one is created, and it is contacted for searches only.
`SearchProviderContract` in `corral.plugins.testing.search_provider` tests what a provider promises.""",
    check_part=implements(SearchProvider),
    guard=GuardedSearch,
    selected=True,
)

ROUTES: Final[Targets[RouteSpec, Any]] = Targets(
    plural="routes",
    noun="route",
    spec_type=RouteSpec,
    doc="""HTTP routes: a `RouteSpec`, whose target is a `litestar.Router`. `corral serve` imports it when it
starts; the runtime is `request.app.state.runtime`.""",
    target_type="litestar:Router",
)

COMMANDS: Final[Targets[CommandSpec, Any]] = Targets(
    plural="commands",
    noun="command",
    spec_type=CommandSpec,
    doc="""A subcommand of `corral`: a `CommandSpec` with a `summary`, whose target is a `click.Command`, imported
when it is called.""",
    target_type="click:Command",
)

HOOKS: Final[tuple[HookKind[Any], ...]] = (
    ENGINES,
    CONVERTERS,
    RUNNERS,
    STORES,
    SOURCES,
    REGISTRIES,
    MANIFEST_FORMATS,
    METADATA_READERS,
    CHAT_LANGUAGES,
    ANSWER_PARSERS,
    TOOL_CALL_FORMATS,
    AUTHENTICATORS,
    SEARCH_PROVIDERS,
    ROUTES,
    COMMANDS,
)
"""All kinds. The hook of each is called once for each plugin, when Corral is assembled; none of them per request."""
