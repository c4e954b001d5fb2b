"""The conformance kit: one suite per port, for a plugin's tests to subclass.

::

    from corral.plugins.testing import RunningModelContract

    class TestParrot(RunningModelContract):
        spec = SPEC

``pytest -p corral.plugins.testing --pyargs corral.plugins.testing.kit --corral-engine NAME`` tests an installed engine,
without a test file.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from corral.plugins.testing.options import pytest_addoption, pytest_configure

if TYPE_CHECKING:
    from corral.plugins.testing.answer_parser import AnswerParserContract, MakeParser
    from corral.plugins.testing.authenticator import AuthenticatorContract
    from corral.plugins.testing.blob_store import BlobStoreContract
    from corral.plugins.testing.chat_format import ChatFormatContract, MakeFormat
    from corral.plugins.testing.converter import ConverterContract
    from corral.plugins.testing.generator_engine import GeneratorEngineContract
    from corral.plugins.testing.jobs import JobRunnerContract
    from corral.plugins.testing.local_blobs import LocalBlobsContract
    from corral.plugins.testing.manifest_format import ManifestFormatContract
    from corral.plugins.testing.manifest_store import ManifestStoreContract
    from corral.plugins.testing.metadata_cache import MetadataCacheContract
    from corral.plugins.testing.metadata_reader import MetadataReaderContract
    from corral.plugins.testing.model_source import ModelSourceContract
    from corral.plugins.testing.registry import RegistryContract
    from corral.plugins.testing.runner import RunnerContract
    from corral.plugins.testing.running_model import RunningModelContract
    from corral.plugins.testing.search_provider import SearchProviderContract
    from corral.plugins.testing.step_engine import StepEngineContract
    from corral.plugins.testing.store_upkeep import StoreUpkeepContract
    from corral.plugins.testing.tool_call_format import ToolCallFormatContract

__all__ = (
    "AnswerParserContract",
    "AuthenticatorContract",
    "BlobStoreContract",
    "ChatFormatContract",
    "ConverterContract",
    "GeneratorEngineContract",
    "JobRunnerContract",
    "LocalBlobsContract",
    "MakeFormat",
    "MakeParser",
    "ManifestFormatContract",
    "ManifestStoreContract",
    "MetadataCacheContract",
    "MetadataReaderContract",
    "ModelSourceContract",
    "RegistryContract",
    "RunnerContract",
    "RunningModelContract",
    "SearchProviderContract",
    "StepEngineContract",
    "StoreUpkeepContract",
    "ToolCallFormatContract",
    "pytest_addoption",
    "pytest_configure",
)

_HOMES = {
    "AnswerParserContract": "answer_parser",
    "AuthenticatorContract": "authenticator",
    "BlobStoreContract": "blob_store",
    "ChatFormatContract": "chat_format",
    "ConverterContract": "converter",
    "GeneratorEngineContract": "generator_engine",
    "JobRunnerContract": "jobs",
    "LocalBlobsContract": "local_blobs",
    "MakeFormat": "chat_format",
    "MakeParser": "answer_parser",
    "ManifestFormatContract": "manifest_format",
    "ManifestStoreContract": "manifest_store",
    "MetadataCacheContract": "metadata_cache",
    "MetadataReaderContract": "metadata_reader",
    "ModelSourceContract": "model_source",
    "RegistryContract": "registry",
    "RunnerContract": "runner",
    "RunningModelContract": "running_model",
    "SearchProviderContract": "search_provider",
    "StepEngineContract": "step_engine",
    "StoreUpkeepContract": "store_upkeep",
    "ToolCallFormatContract": "tool_call_format",
}

# Must run before a suite is imported, so that a failed assertion shows its values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__) if module.name != "options")
)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
