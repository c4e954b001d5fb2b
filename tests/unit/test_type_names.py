"""Types as they are shown to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Optional, Union

import msgspec
import pytest

from corral.core.wording.type_names import type_name


class Host(msgspec.Struct):
    """A setting within a setting."""


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (int, "int"),
        (int | None, "int or None"),
        (Annotated[int, msgspec.Meta(ge=1)] | None, "int or None"),
        (Literal[4, 8], "4 or 8"),
        (Optional[Literal["a", "b"]], "'a' or 'b' or None"),  # noqa: UP045 - another type than A | None
        (Union[int, Annotated[int, msgspec.Meta(ge=1)]], "int"),  # noqa: UP007 - as above
        (dict[str, Host], "dict[str, Host]"),
        (Mapping[str, Any], "Mapping[str, Any]"),
        (tuple[str, ...], "tuple[str, ...]"),
    ],
)
def test_a_type_in_words(annotation: Any, name: str) -> None:
    """Without modules and bounds, and with the allowed values."""
    assert type_name(annotation) == name
