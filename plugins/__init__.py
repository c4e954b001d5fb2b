"""What a plugin author imports.

A plugin is a module named by an entry point of the group ``corral``::

    [project.entry-points.corral]
    parrot = "corral_parrot"

It states the plugin API it is written for, and marks its hooks::

    from corral.plugins import EngineSpec, Registrar, hookimpl

    CORRAL_PLUGIN_API = (1, 0)

    @hookimpl
    def corral_register_engines(register: Registrar[EngineSpec]) -> None:
        register(SPEC)

Hooks only register; the specs hold import paths, so that listing models never imports an engine.
"""

from __future__ import annotations

from corral.core.errors import (
    BlobNotFound,
    Cancelled,
    Conflict,
    CorralError,
    DigestMismatch,
    EngineDied,
    EngineError,
    EngineNotInstalled,
    EngineStalled,
    ErrorInfo,
    InvalidDigest,
    InvalidEmbedding,
    InvalidModelFile,
    InvalidName,
    InvalidOption,
    InvalidRequest,
    JobFailed,
    LoadFailed,
    ModelNotFound,
    NoEngine,
    NotFound,
    OutOfMemory,
    OutOfSpace,
    PluginError,
    PromptTooLong,
    ServerBusy,
    SettingsError,
    SourceError,
    StorageError,
    UnknownEngine,
    Unsupported,
    UnsupportedField,
    UpstreamError,
    map_errors,
)
from corral.core.generation.rendering import (
    abandoned,
)
from corral.core.models.digests import (
    Digest,
    digest_of,
    parse_digest,
)
from corral.core.models.model import (
    FileRole,
    Model,
    ModelFile,
    ModelMetadata,
    StoredModel,
    TemplateText,
)
from corral.core.models.names import (
    ModelName,
    parse_name,
)
from corral.core.models.references import (
    Reference,
    parse_reference,
)
from corral.core.ports.blobs import (
    BlobInfo,
    BlobStore,
    BlobWriter,
    LocalBlobs,
)
from corral.core.ports.chat import (
    ChatTemplate,
    ChatTemplateFactory,
)
from corral.core.ports.engines import (
    Engine,
    GeneratorEngine,
    Prepared,
    PreparingEngine,
    StepEngine,
)
from corral.core.ports.manifests import (
    ManifestBlob,
    ManifestFormat,
    ManifestStore,
    StoredManifest,
)
from corral.core.ports.metadata import (
    MetadataCache,
    MetadataReader,
    RandomAccess,
)
from corral.core.ports.registries import (
    Registry,
    RemoteManifest,
    RemoteWriter,
)
from corral.core.ports.runners import (
    OnLoadProgress,
    Runner,
)
from corral.core.ports.running import (
    ModelInfo,
    RunningModel,
    Task,
)
from corral.core.ports.sources import (
    FetchProgress,
    ModelSource,
    OnProgress,
    RemoteFile,
    SourceModel,
)
from corral.core.ports.tokens import (
    ConstraintMask,
    GradualTokenizer,
    OpenTokenizer,
    Tokenizer,
    TokenMask,
    Vocabulary,
)
from corral.core.random_access import (
    RandomAccessFile,
    buffered,
)
from corral.core.requests.caller import (
    Caller,
)
from corral.core.requests.control_tokens import (
    ControlTokens,
)
from corral.core.requests.messages import (
    Message,
    Tool,
    ToolCall,
)
from corral.core.requests.outputs import (
    Delta,
    Embedded,
    EngineEmbedded,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    Finished,
    FinishReason,
    Output,
    Prefilled,
    Started,
    Token,
    TokenLogprob,
    TopLogprob,
    Usage,
    Vectors,
)
from corral.core.requests.prompts import (
    Prompt,
    TextPart,
    TokensPart,
    prompt_text,
)
from corral.core.requests.requests import (
    ChatRequest,
    CompletionRequest,
    Constraint,
    ContextPolicy,
    EmbedRequest,
    Request,
    SamplingParams,
    ThinkingBudget,
)
from corral.core.runtime import (
    Runtime,
)
from corral.core.specs.converters import (
    ConvertedFile,
    ConverterSpec,
    ConvertRequest,
    ConvertResult,
)
from corral.core.specs.engines import (
    Derivation,
    Device,
    EngineSpec,
    LoadRequest,
    LocalFile,
    Match,
    options_fit,
)
from corral.core.stepping.stop_strings import (
    StopStrings,
)
from corral.core.values import (
    Value,
)
from corral.plugins.hooks import (
    ChatTemplateSpec,
    CommandSpec,
    ManifestFormatSpec,
    MetadataReaderSpec,
    RegistrySpec,
    RouteSpec,
    RunnerSpec,
    SourceSpec,
    StoreSpec,
)
from corral.plugins.hookspecs import PROJECT, hookimpl
from corral.plugins.registrar import Registrar
from corral.plugins.specs import Stores

__all__ = (
    "PROJECT",
    "BlobInfo",
    "BlobNotFound",
    "BlobStore",
    "BlobWriter",
    "Caller",
    "Cancelled",
    "ChatRequest",
    "ChatTemplate",
    "ChatTemplateFactory",
    "ChatTemplateSpec",
    "CommandSpec",
    "CompletionRequest",
    "Conflict",
    "Constraint",
    "ConstraintMask",
    "ContextPolicy",
    "ControlTokens",
    "ConvertRequest",
    "ConvertResult",
    "ConvertedFile",
    "ConverterSpec",
    "CorralError",
    "Delta",
    "Derivation",
    "Device",
    "Digest",
    "DigestMismatch",
    "EmbedRequest",
    "Embedded",
    "Engine",
    "EngineDied",
    "EngineEmbedded",
    "EngineError",
    "EngineFailed",
    "EngineFinished",
    "EngineNotInstalled",
    "EngineOutput",
    "EngineSpec",
    "EngineStalled",
    "ErrorInfo",
    "FetchProgress",
    "FileRole",
    "FinishReason",
    "Finished",
    "GeneratorEngine",
    "GradualTokenizer",
    "InvalidDigest",
    "InvalidEmbedding",
    "InvalidModelFile",
    "InvalidName",
    "InvalidOption",
    "InvalidRequest",
    "JobFailed",
    "LoadFailed",
    "LoadRequest",
    "LocalBlobs",
    "LocalFile",
    "ManifestBlob",
    "ManifestFormat",
    "ManifestFormatSpec",
    "ManifestStore",
    "Match",
    "Message",
    "MetadataCache",
    "MetadataReader",
    "MetadataReaderSpec",
    "Model",
    "ModelFile",
    "ModelInfo",
    "ModelMetadata",
    "ModelName",
    "ModelNotFound",
    "ModelSource",
    "NoEngine",
    "NotFound",
    "OnLoadProgress",
    "OnProgress",
    "OpenTokenizer",
    "OutOfMemory",
    "OutOfSpace",
    "Output",
    "PluginError",
    "Prefilled",
    "Prepared",
    "PreparingEngine",
    "Prompt",
    "PromptTooLong",
    "RandomAccess",
    "RandomAccessFile",
    "Reference",
    "Registrar",
    "Registry",
    "RegistrySpec",
    "RemoteFile",
    "RemoteManifest",
    "RemoteWriter",
    "Request",
    "RouteSpec",
    "Runner",
    "RunnerSpec",
    "RunningModel",
    "Runtime",
    "SamplingParams",
    "ServerBusy",
    "SettingsError",
    "SourceError",
    "SourceModel",
    "SourceSpec",
    "Started",
    "StepEngine",
    "StopStrings",
    "StorageError",
    "StoreSpec",
    "StoredManifest",
    "StoredModel",
    "Stores",
    "Task",
    "TemplateText",
    "TextPart",
    "ThinkingBudget",
    "Token",
    "TokenLogprob",
    "TokenMask",
    "Tokenizer",
    "TokensPart",
    "Tool",
    "ToolCall",
    "TopLogprob",
    "UnknownEngine",
    "Unsupported",
    "UnsupportedField",
    "UpstreamError",
    "Usage",
    "Value",
    "Vectors",
    "Vocabulary",
    "abandoned",
    "buffered",
    "digest_of",
    "hookimpl",
    "map_errors",
    "options_fit",
    "parse_digest",
    "parse_name",
    "parse_reference",
    "prompt_text",
)
