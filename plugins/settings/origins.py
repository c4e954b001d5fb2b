"""Lists every setting with its value and where it comes from, as ``corral config`` shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from corral.plugins.settings.schema import Origin
from corral.plugins.settings.sections import SettingPath, dotted, secret_fields
from corral.plugins.settings.types import encode_setting_type

__all__ = ("origin_rows",)


def origin_rows(
    values: Mapping[str, Any], origins: Mapping[SettingPath, str], prefix: SettingPath = ()
) -> Iterable[Origin]:
    for name, value in values.items():
        path = (*prefix, name)
        if isinstance(value, msgspec.Struct):
            yield from origin_rows({field: _shown(value, field) for field in value.__struct_fields__}, origins, path)
        elif isinstance(value, dict) and path not in origins:
            yield from origin_rows(value, origins, path)
        else:
            yield Origin(path=dotted(path), value=_plain(value), origin=origins.get(path, "default"))


def _plain(value: Any) -> Any:
    """The value as plain data. A table that was set as one value may contain secrets as well."""
    if isinstance(value, msgspec.Struct):
        return {field: _plain(_shown(value, field)) for field in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return msgspec.to_builtins(value, enc_hook=encode_setting_type)


def _shown(settings: msgspec.Struct, field: str) -> Any:
    """What ``corral config`` may print: a field with ``Meta(extra={"secret": True})`` only shows that it is set."""
    value = getattr(settings, field)
    return "***" if value and field in secret_fields(type(settings)) else value
