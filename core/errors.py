"""Every error Corral raises on purpose, as one tree.

    CorralError
    ├── InvalidRequest              the request is malformed or contradictory
    │   ├── InvalidName, InvalidDigest
    │   ├── InvalidOption           an option out of range; MistypedOption: of the wrong type
    │   ├── UnknownEngine           no engine has this name
    │   └── PromptTooLong           the prompt does not fit the context
    ├── NotFound                    ModelNotFound, BlobNotFound
    ├── Unsupported                 the model or the engine cannot do this task
    ├── Conflict                    another task or process changed it or holds it
    ├── StorageError                the store cannot be read or written
    │   ├── DigestMismatch
    │   ├── OutOfSpace
    │   └── ReadOnly                this store, or this layer of it, is only read
    ├── InvalidModelFile            truncated, foreign, or of an unknown architecture
    ├── TemplateFailed              a chat template failed
    ├── SourceError                 a source or registry refused or broke
    │   ├── SourceUnavailable       it cannot be reached, broke off or is busy: trying again may help
    │   │   └── SourceStalled       nothing arrived for too long
    │   └── RangesIgnored           it sends whole blobs only
    ├── EngineError                 an engine failed
    │   ├── EngineNotInstalled      the extra is missing; the remedy is the pip line
    │   ├── NoEngine                no engine runs this model; the message lists why
    │   ├── LoadFailed              `LoadStalled` is one, in ``core/scheduling/load_errors.py``
    │   ├── OutOfMemory             the estimate does not fit, or the allocation failed
    │   ├── InvalidEmbedding        vectors that contain NaN or infinity
    │   ├── EngineDied, EngineStalled; `LoadCrashed` is an `EngineDied`, also there
    │   └── UpstreamError           the server behind an upstream model refused or broke
    ├── JobFailed                   work in a separate process failed
    ├── ServerBusy                  the queue is full
    ├── Cancelled                   the caller went away
    ├── PluginError                 a plugin broke its promises
    └── SettingsError               an unknown key or a mistyped value

Those about who asks are in ``core/access_errors.py``. ``api/http`` maps these classes to statuses.
"""

from __future__ import annotations

from corral.core.error_base import CorralError, ErrorInfo

__all__ = (
    "BlobNotFound",
    "Cancelled",
    "Conflict",
    "CorralError",
    "DigestMismatch",
    "EngineDied",
    "EngineError",
    "EngineNotInstalled",
    "EngineStalled",
    "ErrorInfo",
    "InvalidDigest",
    "InvalidEmbedding",
    "InvalidModelFile",
    "InvalidName",
    "InvalidOption",
    "InvalidRequest",
    "JobFailed",
    "LoadFailed",
    "MistypedOption",
    "ModelNotFound",
    "NoEngine",
    "NotFound",
    "OutOfMemory",
    "OutOfSpace",
    "PluginError",
    "PromptTooLong",
    "RangesIgnored",
    "ReadOnly",
    "ServerBusy",
    "SettingsError",
    "SourceError",
    "SourceStalled",
    "SourceUnavailable",
    "StorageError",
    "TemplateFailed",
    "UnknownEngine",
    "Unsupported",
    "UpstreamError",
)


class InvalidRequest(CorralError, ValueError):
    """The request is malformed or contradictory."""

    code = "invalid_request"


class InvalidName(InvalidRequest):
    """A model name outside the grammar."""

    code = "invalid_name"


class InvalidDigest(InvalidRequest):
    """Not ``sha256:<64 hex digits>``."""

    code = "invalid_digest"


class InvalidOption(InvalidRequest):
    """An option of the wrong type or out of range."""

    code = "invalid_option"


class MistypedOption(InvalidOption):
    """An option or a format whose JSON type is wrong."""

    code = "mistyped_option"


class UnknownEngine(InvalidRequest):
    """No engine has the requested name; the remedy lists the available ones."""

    code = "unknown_engine"


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the context."""

    code = "prompt_too_long"


class NotFound(CorralError, LookupError):
    """The named thing does not exist."""

    code = "not_found"


class ModelNotFound(NotFound):
    """No model of that name is in the store."""

    code = "model_not_found"


class BlobNotFound(NotFound):
    """No blob of that digest is in the store."""

    code = "blob_not_found"


class Unsupported(CorralError):
    """The model or its engine cannot do what was requested."""

    code = "unsupported"


class Conflict(CorralError):
    """Another task or process changed it or holds it."""

    code = "conflict"


class StorageError(CorralError):
    """The store cannot be read or written."""

    code = "storage_error"


class DigestMismatch(StorageError):
    """The bytes do not match their announced digest."""

    code = "digest_mismatch"


class OutOfSpace(StorageError):
    """The disk is full."""

    code = "out_of_space"


class ReadOnly(StorageError):
    """What should be changed belongs to a store, or a layer of one, that is only read."""

    code = "read_only"


class InvalidModelFile(CorralError):
    """A model file that is truncated, foreign, or of an unknown architecture."""

    code = "invalid_model_file"


class TemplateFailed(CorralError):
    """A chat template failed, or the one in a request does not compile. The message is that of its language."""

    code = "template_failed"


class SourceError(CorralError):
    """A model source or registry refused, or broke. Trying again does not help, unless it is `SourceUnavailable`."""

    code = "source_error"


class SourceUnavailable(SourceError):
    """A source or registry that cannot be reached, breaks off, stalls or is busy: trying again may help."""

    code = "source_unavailable"


class SourceStalled(SourceUnavailable):
    """Nothing arrived for too long. The transfer begins again where it stopped, as often as it takes."""

    code = "source_stalled"


class RangesIgnored(SourceError):
    """The registry was asked for a part of a blob and sends the whole blob."""

    code = "ranges_ignored"


class EngineError(CorralError):
    """An engine failed."""

    code = "engine_error"


class EngineNotInstalled(EngineError):
    """The engine's package is missing, or has a version that the adapter refuses; the remedy is the pip line."""

    code = "engine_not_installed"


class NoEngine(EngineError):
    """No engine runs this model; the message lists every engine with its reason."""

    code = "no_engine"


class LoadFailed(EngineError):
    """The engine could not load the model."""

    code = "load_failed"


class OutOfMemory(EngineError):
    """The estimate does not fit the free memory, or the allocation failed."""

    code = "out_of_memory"


class InvalidEmbedding(EngineError):
    """The vectors contain NaN or infinity, which JSON cannot represent."""

    code = "invalid_embedding"


class EngineDied(EngineError):
    """The process or thread that held the model is gone; the next request loads it again."""

    code = "engine_died"


class EngineStalled(EngineError):
    """No heartbeat in time, or a step past its limit; the model is unloaded."""

    code = "engine_stalled"


class JobFailed(CorralError):
    """Work in a separate process failed: converting, looking for devices."""

    code = "job_failed"


class UpstreamError(EngineError):
    """The server behind an upstream model refused, broke off its answer, or cannot be reached."""

    code = "upstream_error"


class ServerBusy(CorralError):
    """The queue is full."""

    code = "server_busy"


class Cancelled(CorralError):
    """The caller went away before the answer was ready."""

    code = "cancelled"


class PluginError(CorralError):
    """A plugin broke its promises."""

    code = "plugin_error"


class SettingsError(CorralError):
    """An unknown setting or a mistyped value; the message names its path."""

    code = "settings_error"
