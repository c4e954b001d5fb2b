"""The request body of ``/api/create``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from corral.api.http.errors import ApiError
from corral.api.http.model_body import require_few
from corral.api.http.ollama.bodies import MessageBody, NamedBody
from corral.core.catalog.create_calls import CreateCall, GivenAdapter, GivenFiles
from corral.core.errors import InvalidDigest
from corral.core.models.digests import parse_digest
from corral.core.models.names import ModelName

__all__ = ("CreateBody",)

_MOST_FILES = 10_000
_MOST_MESSAGES = 10_000


class AdapterBody(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter of several, and how strongly it is applied: Corral's."""

    files: dict[str, str]
    scale: float = 1.0


class CreateBody(NamedBody, frozen=True, kw_only=True):
    """``POST /api/create``. `quantization` is what older clients call `quantize`; `requantize` is Corral's, and so
    are `adapters` in a list."""

    go_name: ClassVar[str] = "CreateRequest"
    max_body_bytes: ClassVar[int | None] = None

    base: str = msgspec.field(default="", name="from")
    remote_host: str = ""
    files: dict[str, str] | None = None
    adapters: dict[str, str] | tuple[AdapterBody, ...] | None = None
    draft_files: dict[str, str] | None = None
    template: str = ""
    license: Any = None
    system: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    messages: tuple[MessageBody, ...] = ()
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    info: dict[str, Any] = msgspec.field(default_factory=dict)
    quantize: str = ""
    quantization: str = ""
    requantize: bool = False
    draft_quantize: str = ""
    stream: bool = True

    def check(self) -> None:
        super().check()
        for field in ("files", "adapters", "draft_files"):
            require_few(field, getattr(self, field) or (), _MOST_FILES)
        require_few("messages", self.messages, _MOST_MESSAGES)

    def to_core(self, name: ModelName, base: str) -> CreateCall:
        """`base` is `from` as it was checked. Raises `ApiError` for digests and licences that are none."""
        return CreateCall(
            name=name,
            base=base,
            remote_host=self.remote_host,
            files=_digests(self.files),
            adapters=_adapters(self.adapters),
            draft_files=_digests(self.draft_files),
            template=self.template,
            system=self.system,
            parameters=self.parameters,
            messages=tuple(message.to_core() for message in self.messages),
            licenses=_texts(self.license),
            renderer=self.renderer,
            parser=self.parser,
            requires=self.requires,
            info=self.info,
            quantize=self.quantize or self.quantization,
            requantize=self.requantize,
            draft_quantize=self.draft_quantize,
        )


def _digests(files: Mapping[str, str] | None) -> GivenFiles | None:
    try:
        return None if files is None else {name: parse_digest(digest) for name, digest in files.items()}
    except InvalidDigest as error:
        raise ApiError(400, "invalid digest format") from error


def _adapters(given: Mapping[str, str] | Sequence[AdapterBody] | None) -> tuple[GivenAdapter, ...]:
    listed = (AdapterBody(files=dict(given)),) if isinstance(given, Mapping) else given or ()
    return tuple(GivenAdapter(files=_digests(one.files) or {}, scale=one.scale) for one in listed)


def _texts(license: object) -> tuple[str, ...]:
    if isinstance(license, list) and all(isinstance(text, str) for text in license):
        return tuple(license)
    if license in (None, ""):
        return ()
    if isinstance(license, str):
        return (license,)
    raise ApiError(400, "license must be a string or an array of strings")
