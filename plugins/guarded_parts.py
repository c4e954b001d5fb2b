"""Wraps the objects of plugins: their exceptions become errors of Corral that name the plugin, and end no thread."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import cache
from typing import Any, TypeVar

import msgspec

from corral.core.containment import TookTooLong, contained, interrupts_reach_us, on_own_thread, short_line
from corral.core.errors import CorralError, PluginError
from corral.core.models.digests import Digest
from corral.core.models.model import ModelMetadata, TemplateText
from corral.core.models.references import Reference
from corral.core.ports.authenticators import Credentials
from corral.core.ports.chat import ChatFormat, RenderedChat
from corral.core.ports.registries import RemoteManifest, RemoteWriter
from corral.core.ports.sources import OnProgress, RemoteFile, SourceModel
from corral.core.requests.principal import Principal
from corral.plugins.plugin_results import checked, validated

__all__ = (
    "GuardedAuthenticator",
    "GuardedLanguage",
    "GuardedPart",
    "GuardedRegistry",
    "GuardedSource",
    "bounded",
    "complain",
    "ours",
)

_log = logging.getLogger("corral.plugins")

_CALL_LIMIT_S = 3.0
"""How long a function that opens no file may take: the event loop waits for it."""

_ANSWER_LIMIT_S = 10.0
"""How long a request waits until it is known who sends it."""

Spec = TypeVar("Spec", bound=msgspec.Struct)
T = TypeVar("T")


def bounded(spec: Spec, limit_s: float | None) -> Spec:
    """The spec with its functions wrapped: they are abandoned if they take too long, never if `limit_s` is None."""
    if limit_s is None:
        return spec
    limit_s = min(limit_s, _CALL_LIMIT_S)
    values = {name: getattr(spec, name) for name in spec.__struct_fields__}
    functions = {name: value for name, value in values.items() if callable(value) and not isinstance(value, type)}
    return msgspec.structs.replace(spec, **{name: _Bounded(function, limit_s) for name, function in functions.items()})


class _Bounded:
    """A function that is abandoned if it takes too long, and then never called again: each call would cost a thread."""

    def __init__(self, function: Callable[..., Any], limit_s: float) -> None:
        self._function = function
        self._limit_s = limit_s
        self._late: str | None = None

    def __call__(self, *arguments: Any) -> Any:
        if self._late is not None:
            raise PluginError(self._late)
        try:
            return on_own_thread(lambda: self._function(*arguments), limit_s=self._limit_s)
        except TookTooLong as late:
            self._late = f"it {late}, and is not called again"
            raise PluginError(self._late) from late


class GuardedPart:
    """An object with short methods. The method `yes_or_no` counts as answering no if it raises.

    Errors of Corral pass if they are among those that the port `raises`; all others are faults of the plugin.
    `results` are the types that methods return; `validates`: their fields and elements are checked too.
    """

    def __init__(
        self,
        part: Any,
        where: str,
        *,
        yes_or_no: str | None = None,
        results: dict[str, Any] | None = None,
        validates: bool = False,
        raises: tuple[type[CorralError], ...] = (CorralError,),
    ) -> None:
        self._part = part
        self._where = where
        self._yes_or_no = yes_or_no
        self._results = results or {}
        self._check = validated if validates else checked
        self._raises = raises

    def __getattr__(self, name: str) -> Any:
        try:
            attribute = getattr(self._part, name)
        except AttributeError:
            raise
        except BaseException as fault:
            with ours(f"{self._where}: {name}"):
                raise fault
        if not callable(attribute):
            return attribute
        return self._asking(attribute) if name == self._yes_or_no else self._calling(name, attribute)

    def _asking(self, method: Callable[..., Any]) -> Callable[..., bool]:
        def ask(*arguments: Any, **named: Any) -> bool:
            try:
                return bool(contained(method, *arguments, **named))
            except Exception as fault:
                complain(self._where, f"{type(fault).__name__}: {short_line(fault)}")
                return False

        return ask

    def _calling(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with ours(f"{self._where}: {name}", self._raises):
                result = contained(method, *arguments, **named)
                return self._check(result, self._results[name]) if name in self._results else result

        return call


class GuardedLanguage:
    """A `ChatLanguage`; the formats that it compiles are guarded too."""

    def __init__(self, language: Any, where: str) -> None:
        self._language = language
        self._where = where

    def compile(self, text: TemplateText, metadata: ModelMetadata | None) -> ChatFormat:
        with ours(f"{self._where}: compile"):
            compiled = contained(self._language.compile, text, metadata)
            if not callable(getattr(compiled, "render", None)):
                raise TypeError(f"it returned {short_line(repr(compiled), 60)} instead of a ChatFormat")
        guarded: ChatFormat = GuardedPart(compiled, self._where, results={"render": RenderedChat})
        return guarded


class GuardedSource:
    """A `ModelSource`, whose work is done in the event loop."""

    def __init__(self, source: Any, where: str) -> None:
        self._source = source
        self._where = where
        self.scheme: str = source.scheme

    @asynccontextmanager
    async def resolve(self, reference: str, on_progress: OnProgress) -> AsyncGenerator[SourceModel, None]:
        with ours(f"{self._where}: resolve"):
            context = self._source.resolve(reference, on_progress)
            remote = await context.__aenter__()
        try:
            if not isinstance(remote, SourceModel):
                raise PluginError(
                    f"{self._where}: resolve returned {short_line(repr(remote), 60)} instead of a SourceModel"
                )
            yield remote
        except BaseException as fault:
            try:
                with ours(f"{self._where}: resolve"):
                    await context.__aexit__(type(fault), fault, fault.__traceback__)
            except PluginError as error:
                if error.__cause__ is not fault:  # an error of the reader passes through: it is not the plugin's
                    raise
            raise
        else:
            with ours(f"{self._where}: resolve"):
                await context.__aexit__(None, None, None)

    async def fetch(self, file: RemoteFile, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        with ours(f"{self._where}: fetch"):
            span = (start,) if end is None else (start, end)  # a source without `in_parts` may know no end
            async with aclosing(self._source.fetch(file, *span)) as chunks:
                async for chunk in chunks:
                    yield checked(chunk, bytes)


class GuardedAuthenticator:
    """An `Authenticator`. What it does not tell in time is an error."""

    def __init__(self, authenticator: Any, where: str) -> None:
        self._authenticator = authenticator
        self._where = where

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        import asyncio  # which the process of a model does without

        with ours(f"{self._where}: authenticate"):
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                found = await self._authenticator.authenticate(credentials)
            return None if found is None else checked(found, Principal)

    async def aclose(self) -> None:
        with ours(f"{self._where}: aclose"):
            await self._authenticator.aclose()


class GuardedRegistry:
    """A `Registry`, whose work is done in the event loop."""

    def __init__(self, registry: Any, where: str) -> None:
        self._registry = registry
        self._where = where
        self.schemes: tuple[str, ...] = registry.schemes

    async def manifest(self, reference: Reference) -> RemoteManifest:
        return await self._result("manifest", RemoteManifest, reference)

    async def fetch(
        self, reference: Reference, blob: Digest, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        with ours(f"{self._where}: fetch"):
            async with aclosing(self._registry.fetch(reference, blob, start, end)) as chunks:
                async for chunk in chunks:
                    yield checked(chunk, bytes)

    async def mount(self, reference: Reference, blob: Digest, source: Reference) -> bool:
        return await self._result("mount", bool, reference, blob, source)

    async def begin(self, reference: Reference, blob: Digest, size_bytes: int) -> RemoteWriter:
        with ours(f"{self._where}: begin"):
            writer = await self._registry.begin(reference, blob, size_bytes)
            if not all(callable(getattr(writer, name, None)) for name in ("write", "commit", "abort")):
                raise TypeError(f"it returned {short_line(repr(writer), 60)} instead of a RemoteWriter")
        return _GuardedWriter(writer, self._where)

    async def put(self, reference: Reference, data: bytes, media_type: str) -> Digest:
        return Digest(await self._result("put", str, reference, data, media_type))

    async def aclose(self) -> None:
        with ours(f"{self._where}: aclose"):
            await self._registry.aclose()

    async def _result(self, name: str, wanted: type[T], *arguments: Any) -> T:
        with ours(f"{self._where}: {name}"):
            return checked(await getattr(self._registry, name)(*arguments), wanted)


class _GuardedWriter:
    """A `RemoteWriter`."""

    def __init__(self, writer: Any, where: str) -> None:
        self._writer = writer
        self._where = where

    async def write(self, data: bytes) -> None:
        with ours(f"{self._where}: write"):
            await self._writer.write(data)

    async def commit(self) -> None:
        with ours(f"{self._where}: commit"):
            await self._writer.commit()

    async def abort(self) -> None:
        with ours(f"{self._where}: abort"):
            await self._writer.abort()


@contextmanager
def ours(where: str, raises: tuple[type[CorralError], ...] = (CorralError,)) -> Iterator[None]:
    """Turns what a plugin raises into a `PluginError`; `raises`, cancellation and real interrupts pass."""
    try:
        yield
    except PluginError as fault:
        raise PluginError(f"{where}: {fault.message}", fault.remedy) from fault.__cause__
    except raises:
        raise
    except Exception as fault:
        raise PluginError(f"{where}: {type(fault).__name__}: {short_line(fault)}") from fault
    except (SystemExit, KeyboardInterrupt) as fault:
        if isinstance(fault, KeyboardInterrupt) and interrupts_reach_us():
            raise
        raise PluginError(f"{where}: raised {type(fault).__name__}") from fault


@cache
def complain(where: str, said: str) -> None:
    """Logs each fault once: a reader is asked about every model."""
    _log.warning("%s: %s", where, said)
