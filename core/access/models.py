"""The models of a server as one caller may see and change them."""

from __future__ import annotations

import builtins

from corral.core.access.rules import require_model, require_new_name, require_scope
from corral.core.access_errors import Forbidden
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.create_calls import CreateCall
from corral.core.catalog.uploads import BlobUploads
from corral.core.errors import InvalidName
from corral.core.models.digests import Digest
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName, parse_name
from corral.core.models.view import ModelView
from corral.core.ports.sources import OnProgress, ignore_progress
from corral.core.requests.caller import Caller
from corral.core.scheduling.leases import LoadedModel
from corral.core.scheduling.scheduler import ModelScheduler

__all__ = ("CallerModels",)


class CallerModels:
    """What a server does with models at the request of a caller. All methods raise `Forbidden` without their scope.

    A model that the caller may not use does not exist for it: it is not listed, and asking for it raises
    `ModelNotFound`. A new name that it may not use raises `Forbidden`, whether or not it is taken. What a record that
    was obtained here says, `ModelCatalog` tells without further checks.
    """

    def __init__(self, caller: Caller, catalog: ModelCatalog, scheduler: ModelScheduler) -> None:
        self._principal = caller.principal
        self._catalog = catalog
        self._scheduler = scheduler

    @property
    def uploads(self) -> BlobUploads:
        """Where the files of models to be created arrive. Scope ``manage``."""
        require_scope(self._principal, "manage")
        return self._catalog.uploads

    async def list(self) -> builtins.list[StoredModel]:
        """As `ModelCatalog.list`. Scope ``infer``."""
        require_scope(self._principal, "infer")
        return [record for record in await self._catalog.list() if self._principal.may_use(record.name.short)]

    def loaded(self) -> builtins.list[LoadedModel]:
        """As `ModelScheduler.loaded`. Scope ``infer``."""
        require_scope(self._principal, "infer")
        return [one for one in self._scheduler.loaded() if self._principal.may_use(one.record.name.short)]

    async def get(self, name: ModelName) -> StoredModel:
        """As `ModelCatalog.get`. Scope ``infer``."""
        require_scope(self._principal, "infer")
        require_model(self._principal, name)
        return await self._catalog.get(name)

    async def view(self, name: ModelName) -> ModelView:
        """As `ModelCatalog.view`. Scope ``infer``."""
        require_scope(self._principal, "infer")
        require_model(self._principal, name)
        return await self._catalog.view(name)

    async def copy(self, source: ModelName, destination: ModelName) -> None:
        """As `ModelCatalog.copy`. Scope ``manage``."""
        require_scope(self._principal, "manage")
        require_model(self._principal, source)
        require_new_name(self._principal, destination)
        await self._catalog.copy(source, destination)

    async def delete(self, name: ModelName) -> None:
        """Deletes a model, and closes the connections of an upstream, which no timer would. Scope ``manage``.

        Raises `ModelNotFound`.
        """
        require_scope(self._principal, "manage")
        require_model(self._principal, name)
        record = await self._catalog.delete(name)
        if record is not None and record.remote:
            await self._scheduler.unload(record)

    async def create(self, call: CreateCall, on_progress: OnProgress = ignore_progress) -> StoredModel:
        """As `ModelCreator.create`. Scope ``manage``: the model may also be one that another server runs."""
        require_scope(self._principal, "manage")
        require_new_name(self._principal, call.name)
        if call.base and not call.remote_host:
            self._require_base(call.base)
        return await self._catalog.creator.create(call, on_progress)

    async def pull(
        self,
        reference: str,
        name: ModelName | None = None,
        on_progress: OnProgress = ignore_progress,
        *,
        insecure: bool = False,
    ) -> StoredModel:
        """As `ModelCatalog.pull`. Scope ``manage``: this server connects to wherever the reference leads.

        A caller that may not use all models states the `name`.
        """
        require_scope(self._principal, "manage")
        if name is not None:
            require_new_name(self._principal, name)
        elif not self._principal.may_use_all:
            raise Forbidden(
                f"{self._principal.name!r} may not use every name: it must say how to call {reference[:100]!r}",
                "send the name as `destination`",
            )
        return await self._catalog.pull(reference, name, on_progress, insecure=insecure)

    async def push(
        self,
        name: ModelName,
        reference: str = "",
        on_progress: OnProgress = ignore_progress,
        *,
        manifest_format: str | None = None,
        insecure: bool = False,
    ) -> Digest:
        """As `ModelCatalog.push`. Scope ``manage``: it uses this machine's logins."""
        require_scope(self._principal, "manage")
        require_model(self._principal, name)
        return await self._catalog.push(
            name, reference, on_progress, manifest_format=manifest_format, insecure=insecure
        )

    def _require_base(self, base: str) -> None:
        """What a model is created from may be in the store, or pulled under its own name."""
        if self._principal.may_use_all:
            return
        try:
            name = parse_name(base)
        except InvalidName as error:
            raise Forbidden(
                f"{self._principal.name!r} may not use every name: it cannot create a model from a reference",
                "pull it first, under a name that the key may use",
            ) from error
        require_model(self._principal, name)
