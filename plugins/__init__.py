"""Everything that the author of a plugin imports.

A plugin is a module named by an entry point of the group ``corral``::

    [project.entry-points.corral]
    parrot = "corral_parrot"

It states the version of the plugin API, and marks its hooks::

    from corral.plugins import EngineSpec, Registrar, hookimpl

    CORRAL_PLUGIN_API = (1, 0)

    @hookimpl
    def corral_register_engines(register: Registrar[EngineSpec]) -> None:
        register(SPEC)

Hooks only register specs. These contain import paths, so that listing models never imports an engine.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat as MarkedCallFormat
from corral.adapters.answer_parsers.call_source import CallSource as CallSource
from corral.adapters.answer_parsers.json_calls import read_arguments as read_arguments
from corral.adapters.answer_parsers.marked_calls import Calls as Calls
from corral.adapters.answer_parsers.marked_calls import MarkedCallParser as MarkedCallParser
from corral.adapters.converters.safetensors.spec import GgufParameters as GgufParameters
from corral.core.access_errors import *
from corral.core.error_translation import map_errors as map_errors
from corral.core.errors import *
from corral.core.models.digests import Digest as Digest
from corral.core.models.digests import digest_of as digest_of
from corral.core.models.digests import parse_digest as parse_digest
from corral.core.models.model import *
from corral.core.models.names import ModelName as ModelName
from corral.core.models.names import parse_name as parse_name
from corral.core.models.references import Reference as Reference
from corral.core.models.references import parse_reference as parse_reference
from corral.core.ports.answer_parsers import *
from corral.core.ports.authenticators import *
from corral.core.ports.blobs import *
from corral.core.ports.chat import *
from corral.core.ports.engines import *
from corral.core.ports.manifests import *
from corral.core.ports.metadata import *
from corral.core.ports.registries import *
from corral.core.ports.runners import *
from corral.core.ports.running import *
from corral.core.ports.sources import *
from corral.core.ports.tokens import *
from corral.core.ports.upkeep import *
from corral.core.ports.web import *
from corral.core.random_access import *
from corral.core.requests.call_grammars import call_list as call_list
from corral.core.requests.call_grammars import calls_after as calls_after
from corral.core.requests.call_grammars import json_text as json_text
from corral.core.requests.call_grammars import literal as literal
from corral.core.requests.caller import ANONYMOUS as ANONYMOUS
from corral.core.requests.caller import Caller as Caller
from corral.core.requests.calls import *
from corral.core.requests.control_tokens import LOOKALIKES as LOOKALIKES
from corral.core.requests.control_tokens import ControlTokens as ControlTokens
from corral.core.requests.messages import *
from corral.core.requests.outputs import *
from corral.core.requests.principal import *
from corral.core.requests.prompts import *
from corral.core.requests.requests import *
from corral.core.requests.think_tags import ThinkTags as ThinkTags
from corral.core.requests.typed_text import TypedText as TypedText
from corral.core.specs.comparisons import *
from corral.core.specs.converters import ConvertedFile as ConvertedFile
from corral.core.specs.converters import ConverterSpec as ConverterSpec
from corral.core.specs.converters import ConvertRequest as ConvertRequest
from corral.core.specs.converters import ConvertResult as ConvertResult
from corral.core.specs.engines import *
from corral.core.stepping.stop_strings import StopStrings as StopStrings
from corral.core.values import Value as Value
from corral.core.web_errors import *
from corral.plugins.hook_kinds import HookKind
from corral.plugins.hook_specs import *
from corral.plugins.hooks import *
from corral.plugins.pluggy_markers import hookimpl as hookimpl
from corral.plugins.registrar import Registrar as Registrar
from corral.plugins.specs import Stores as Stores

if TYPE_CHECKING:
    from corral.adapters.converters.safetensors.checkpoint import Checkpoint as Checkpoint
    from corral.adapters.converters.safetensors.config import Config as Config
    from corral.adapters.converters.safetensors.convert import convert_checkpoint as convert_checkpoint
    from corral.adapters.converters.safetensors.families.decoder import DecoderFamily as DecoderFamily
    from corral.adapters.converters.safetensors.family import CheckpointFamily as CheckpointFamily
    from corral.adapters.converters.safetensors.family import PlannedTensor as PlannedTensor
    from corral.adapters.converters.safetensors.tokenizers.choice import tokenizer_keys as tokenizer_keys
    from corral.adapters.engine_kit.sampling import LogitsSampler as LogitsSampler
    from corral.adapters.engine_kit.sampling.candidates import Logits as Logits
    from corral.adapters.engine_kit.token_choosing import ModelTokens as ModelTokens
    from corral.adapters.engine_kit.token_choosing import TokenChooser as TokenChooser
    from corral.adapters.engine_kit.token_choosing import TokenSampler as TokenSampler
    from corral.core.generation.rendering import abandoned as abandoned
    from corral.core.runtime import Runtime as Runtime
else:
    _IMPORTED_ON_USE = {
        "Checkpoint": "corral.adapters.converters.safetensors.checkpoint",  # needs NumPy, as do all but the last two
        "CheckpointFamily": "corral.adapters.converters.safetensors.family",
        "Config": "corral.adapters.converters.safetensors.config",
        "DecoderFamily": "corral.adapters.converters.safetensors.families.decoder",
        "PlannedTensor": "corral.adapters.converters.safetensors.family",
        "convert_checkpoint": "corral.adapters.converters.safetensors.convert",
        "tokenizer_keys": "corral.adapters.converters.safetensors.tokenizers.choice",
        "Logits": "corral.adapters.engine_kit.sampling.candidates",
        "LogitsSampler": "corral.adapters.engine_kit.sampling",
        "ModelTokens": "corral.adapters.engine_kit.token_choosing",
        "TokenChooser": "corral.adapters.engine_kit.token_choosing",
        "TokenSampler": "corral.adapters.engine_kit.token_choosing",
        "Runtime": "corral.core.runtime",  # the whole server, which the process of a model does without
        "abandoned": "corral.core.generation.rendering",
    }

    # Without those imported on use: `import *` would import them, and fail where NumPy is not installed.
    __all__ = sorted(
        name
        for name, value in globals().items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and not isinstance(value, HookKind)
        and name not in ("HOOKS", "HookKind", "ModuleType", "TYPE_CHECKING", "annotations", "import_module")
    )

    def __getattr__(name):
        if name not in _IMPORTED_ON_USE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_IMPORTED_ON_USE[name]), name)

    def __dir__():
        return sorted((*__all__, *_IMPORTED_ON_USE))
