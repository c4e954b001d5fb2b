"""Corral's own plugin: it registers what comes with the package, as any other plugin would."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from corral.adapters.authenticators.settings import KeysSettings
from corral.adapters.converters.ctransformers.spec import CONVERTER as CTRANSFORMERS_CONVERTER
from corral.adapters.converters.onnx.spec import CONVERTER as ONNX_CONVERTER
from corral.adapters.converters.safetensors.spec import CONVERTER as GGUF_CONVERTER
from corral.adapters.engines.ctransformers.spec import SPEC as CTRANSFORMERS
from corral.adapters.engines.fake import SPEC as FAKE
from corral.adapters.engines.llama_cpp.quantizing.spec import CONVERTER as QUANTIZER
from corral.adapters.engines.llama_cpp.spec import SPEC as LLAMA_CPP
from corral.adapters.engines.onnx_embeddings.spec import SPEC as ONNX_EMBEDDINGS
from corral.adapters.engines.onnx_genai.spec import SPEC as ONNX_GENAI
from corral.adapters.engines.upstream.spec import SPEC as UPSTREAM
from corral.adapters.registries.oci.settings import OciRegistrySettings
from corral.adapters.runners.settings import ProcessSettings
from corral.adapters.sources.web_settings import HuggingFaceSettings, WebSourceSettings
from corral.adapters.web.settings import SearxngSettings
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import EngineSpec
from corral.plugins.hook_specs import (
    AnswerParserSpec,
    AuthenticatorSpec,
    ChatLanguageSpec,
    ManifestFormatSpec,
    MetadataReaderSpec,
    RegistrySpec,
    RunnerSpec,
    SearchProviderSpec,
    SourceSpec,
    StoreSpec,
    ToolCallFormatSpec,
)
from corral.plugins.pluggy_markers import hookimpl
from corral.plugins.registrar import Registrar
from corral.plugins.settings.types import Duration

__all__ = (
    "CORRAL_PLUGIN_API",
    "TOOL_CALL_FORMATS",
    "FilesystemStoreSettings",
    "OciLayoutStoreSettings",
    "OciStoreSettings",
)

CORRAL_PLUGIN_API = (1, 0)

TOOL_CALL_FORMATS = {
    "hermes": "hermes:HermesCalls",
    "qwen3_coder": "qwen3_coder:Qwen3CoderCalls",
    "seed": "qwen3_coder:SeedCalls",
    "glm": "glm:GlmCalls",
    "llama3_json": "llama3_json:Llama3JsonCalls",
    "pythonic": "pythonic:PythonicCalls",
    "lfm2": "pythonic:Lfm2Calls",
    "tool_code": "tool_code:ToolCodeCalls",
    "mistral": "mistral:MistralCalls",
    "mistral_list": "mistral:MistralListCalls",
    "deepseek": "deepseek:DeepSeekCalls",
    "deepseek_v31": "deepseek:DeepSeekV31Calls",
    "deepseek_v32": "deepseek_dsml:DeepSeekDsmlCalls",
    "kimi": "kimi:KimiCalls",
    "minimax": "minimax:MiniMaxCalls",
    "gemma4": "gemma:Gemma4Calls",
    "function_gemma": "gemma:FunctionGemmaCalls",
    "harmony": "harmony_calls:HarmonyCalls",
    "cohere": "cohere:CohereCalls",
    "command_r": "command_r:CommandRCalls",
    "granite": "granite:GraniteCalls",
    "phi4": "granite:Phi4Calls",
    "go_tag": "go_tag:GoTagCalls",
}
"""No chat template is recognised by two of them."""


class FilesystemStoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[stores.filesystem]``: `root` is a folder in Ollama's layout; ``~`` is the home folder."""

    root: str = "~/.ollama/models"


class OciLayoutStoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[stores.oci-layout]``: `root` is the folder of an OCI image layout, which need not exist yet."""

    root: str = "~/.local/share/corral/models"


class OciStoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[stores.oci]``: how the registry is reached is in ``[registries.oci]``."""

    location: Annotated[str, Meta(description="The registry and the prefix of all repositories: `HOST/PREFIX`.")] = ""
    repositories: Annotated[
        tuple[str, ...],
        Meta(
            description="The repositories of the models, below the prefix, such as `library/llama3`; if unset, the "
            "registry lists them."
        ),
    ] = ()
    cache: Annotated[str, Meta(description="The folder for blobs that are in use, or may be used again.")] = (
        "~/.cache/corral/registries"
    )
    cache_bytes: Annotated[
        int, Meta(ge=0, description="How much of them is kept while it is not in use; 0 means all.")
    ] = 64 * 1024**3
    fresh: Annotated[
        Duration, Meta(description="For how long what the registry said of a model is taken as current.")
    ] = Duration("5s")


@hookimpl
def corral_register_engines(register: Registrar[EngineSpec]) -> None:
    register(LLAMA_CPP)
    register(ONNX_GENAI)
    register(ONNX_EMBEDDINGS)
    register(CTRANSFORMERS)
    register(UPSTREAM)
    register(FAKE)


@hookimpl
def corral_register_converters(register: Registrar[ConverterSpec]) -> None:
    register(ONNX_CONVERTER)
    register(CTRANSFORMERS_CONVERTER)
    register(QUANTIZER)
    register(GGUF_CONVERTER)


@hookimpl
def corral_register_runners(register: Registrar[RunnerSpec]) -> None:
    register(
        RunnerSpec(name="process", target="corral.adapters.runners.process:ProcessRunner", settings=ProcessSettings)
    )
    register(RunnerSpec(name="thread", target="corral.adapters.runners.thread:ThreadRunner"))
    register(RunnerSpec(name="event_loop", target="corral.adapters.runners.event_loop:EventLoopRunner"))


@hookimpl
def corral_register_stores(register: Registrar[StoreSpec]) -> None:
    register(
        StoreSpec(
            name="filesystem",
            target="corral.plugins.stores:filesystem",
            settings=FilesystemStoreSettings,
            address="root",
        )
    )
    register(
        StoreSpec(
            name="oci-layout",
            target="corral.plugins.stores:oci_layout",
            settings=OciLayoutStoreSettings,
            address="root",
        )
    )
    register(
        StoreSpec(
            name="oci",
            target="corral.plugins.stores:oci",
            settings=OciStoreSettings,
            address="location",
            registry="oci",
        )
    )
    register(StoreSpec(name="memory", target="corral.plugins.stores:memory"))


@hookimpl
def corral_register_sources(register: Registrar[SourceSpec]) -> None:
    register(SourceSpec(name="pypi", target="corral.adapters.sources.pypi:PypiSource"))
    register(
        SourceSpec(
            name="hf", target="corral.adapters.sources.hugging_face:HuggingFaceSource", settings=HuggingFaceSettings
        )
    )
    register(SourceSpec(name="https", target="corral.adapters.sources.web:https_source", settings=WebSourceSettings))
    register(SourceSpec(name="http", target="corral.adapters.sources.web:http_source", settings=WebSourceSettings))


@hookimpl
def corral_register_registries(register: Registrar[RegistrySpec]) -> None:
    register(
        RegistrySpec(
            name="oci", target="corral.adapters.registries.oci.registry:OciRegistry", settings=OciRegistrySettings
        )
    )


@hookimpl
def corral_register_manifest_formats(register: Registrar[ManifestFormatSpec]) -> None:
    register(ManifestFormatSpec(name="ollama", target="corral.adapters.formats.ollama:OllamaManifestFormat"))
    register(ManifestFormatSpec(name="modelpack", target="corral.adapters.formats.modelpack:ModelPackFormat"))
    register(ManifestFormatSpec(name="docker-model", target="corral.adapters.formats.docker_model:DockerModelFormat"))


@hookimpl
def corral_register_metadata_readers(register: Registrar[MetadataReaderSpec]) -> None:
    register(MetadataReaderSpec(name="gguf", target="corral.adapters.formats.gguf:GgufReader"))
    register(MetadataReaderSpec(name="ggml", target="corral.adapters.formats.ggml:GgmlReader"))


@hookimpl
def corral_register_chat_languages(register: Registrar[ChatLanguageSpec]) -> None:
    register(ChatLanguageSpec(name="go", target="corral.adapters.templates.go.language:GoLanguage"))
    register(ChatLanguageSpec(name="jinja", target="corral.adapters.templates.language:JinjaLanguage"))


@hookimpl
def corral_register_answer_parsers(register: Registrar[AnswerParserSpec]) -> None:
    register(AnswerParserSpec(name="think_tags", target="corral.adapters.answer_parsers.think_tags:ThinkTagParsers"))
    register(AnswerParserSpec(name="harmony_channels", target="corral.adapters.answer_parsers.harmony:HarmonyThinking"))


@hookimpl
def corral_register_tool_call_formats(register: Registrar[ToolCallFormatSpec]) -> None:
    for name, target in TOOL_CALL_FORMATS.items():
        register(ToolCallFormatSpec(name=name, target=f"corral.adapters.answer_parsers.{target}"))


@hookimpl
def corral_register_authenticators(register: Registrar[AuthenticatorSpec]) -> None:
    register(
        AuthenticatorSpec(
            name="keys", target="corral.adapters.authenticators.keys:KeyAuthenticator", settings=KeysSettings
        )
    )


@hookimpl
def corral_register_search_providers(register: Registrar[SearchProviderSpec]) -> None:
    register(
        SearchProviderSpec(name="searxng", target="corral.adapters.web.searxng:SearxngSearch", settings=SearxngSettings)
    )
