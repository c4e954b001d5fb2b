"""Applies the settings of single models, ``[models."NAME"]``: they override a model's own parameters."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from corral.core.catalog.catalog import ModelCatalog
from corral.core.errors import CorralError, SettingsError
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName, parse_name
from corral.core.models.view import ModelView
from corral.core.requests.options import parse_options
from corral.plugins.settings.schema import ModelSettings

__all__ = ("ConfiguredCatalog", "by_model")


def by_model(settings: Mapping[str, ModelSettings]) -> dict[str, ModelSettings]:
    """The settings by the model's key. Raises `SettingsError` for an invalid name or option."""
    found: dict[str, ModelSettings] = {}
    for name, model in settings.items():
        try:
            parse_options(model.options)
            found[parse_name(name).key] = model
        except CorralError as fault:
            raise SettingsError(f'models."{name}": {fault.message}', fault.remedy) from fault
    return found


class ConfiguredCatalog:
    """The catalog for inference: a model's parameters are overlaid with what is set for it."""

    def __init__(self, catalog: ModelCatalog, settings: Mapping[str, ModelSettings]) -> None:
        self._catalog = catalog
        self._settings = settings

    async def get(self, name: ModelName) -> StoredModel:
        return self._overlaid(await self._catalog.get(name))

    async def view(self, name: ModelName) -> ModelView:
        view = await self._catalog.view(name)
        record = self._overlaid(view.record)
        return view if record is view.record else msgspec.structs.replace(view, record=record)

    async def list(self) -> list[StoredModel]:
        return [self._overlaid(record) for record in await self._catalog.list()]

    def _overlaid(self, record: StoredModel) -> StoredModel:
        model = self._settings.get(record.name.key)
        if model is None:
            return record
        engine = {} if model.engine is None else {"engine": model.engine}
        return msgspec.structs.replace(record, parameters={**record.parameters, **model.options, **engine})
