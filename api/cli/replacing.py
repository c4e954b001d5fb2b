"""Which model has the name of a result already: by default it keeps it, and one that is replaced is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from corral.api.cli.fetched import FetchedModels
from corral.api.cli.output import echo
from corral.api.library import Corral
from corral.core.errors import Conflict, CorralError
from corral.core.models.digests import Digest, short_digest
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName, parse_name

__all__ = ("digest_in", "digest_of", "holder", "make_from", "taken", "tell_replaced")


def holder(corral: Corral, name: ModelName) -> StoredModel | None:
    """The model that has this name now; None also if it cannot be read."""
    catalog = corral.runtime().catalog
    with suppress(CorralError):
        return corral.call(lambda _: catalog.get(name))
    return None


def digest_of(corral: Corral, name: ModelName) -> Digest | None:
    """The digest of `holder`."""
    found = holder(corral, name)
    return None if found is None else found.digest


def taken(record: StoredModel, naming: str) -> Conflict:
    """The error for a result that would by default get the name of another model; `naming` is what gives it another
    name, up to where that follows: a command, or ``adding --name``."""
    return Conflict(
        f"the store already has another model called {record.name.short}",
        f"{naming} NAME gives this one another name; {naming} {record.name.short} replaces that model",
    )


def make_from(
    corral: Corral,
    source: ModelName,
    name: str | None,
    default: ModelName,
    naming: str,
    make: Callable[[], StoredModel],
) -> tuple[StoredModel, Digest | None]:
    """What `make` makes of `source`, and the digest that the model of its name had before, if there was one. With
    `name` None it gets the name `default`; `naming` as in `taken`.

    Raises `Conflict` if a model has that name already which was not made from the weights of `source`, nor by an
    earlier call from weights that `source` had then.
    """
    before = holder(corral, default if name is None else parse_name(name))
    if name is None and before is not None:
        _require_own(corral, source, default, before, naming)
    record = make()
    if record.name.short.lower() == default.short.lower():
        FetchedModels().remember(_made(source, default), record.name.short, record.digest)
    return record, None if before is None else before.digest


def _require_own(corral: Corral, source: ModelName, default: ModelName, before: StoredModel, naming: str) -> None:
    original = holder(corral, source)
    if original is None or original.weights is None:
        return
    own = {file.digest for file in before.files_of("weights")}
    if original.weights.digest in {before.converted_from, *own}:
        return
    if FetchedModels().find(_made(source, default), {before.name.short: before.digest}) is None:
        raise taken(before, naming)


def _made(source: ModelName, default: ModelName) -> str:
    return f"{default.short.lower()} from {source.short.lower()}"


def digest_in(models: Mapping[str, str], name: str) -> str | None:
    """The digest of the model of this name among `models`, digests by name; None if there is none."""
    return next((digest for one, digest in models.items() if one.lower() == name.lower()), None)


def tell_replaced(name: str, before: str | None, now: str | None) -> None:
    """Says so if the model `name` had another digest before. None: there was no model, or it could not be read."""
    if before is not None and now not in (None, before):
        echo(f"replaced the model that was called {name} (ID {short_digest(Digest(before))})", err=True)
