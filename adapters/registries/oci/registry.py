"""`OciRegistry`: all registries that speak the OCI distribution protocol, for every scheme of references to them."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping

from corral.adapters.registries.oci.addressing import SCHEMES, host_place, place_of
from corral.adapters.registries.oci.authorizing import Authorizer
from corral.adapters.registries.oci.blob_fetching import Blobs
from corral.adapters.registries.oci.connection_pool import ConnectionPool
from corral.adapters.registries.oci.exchange import RegistryExchange
from corral.adapters.registries.oci.listing import list_repositories, list_tags
from corral.adapters.registries.oci.logins import Logins
from corral.adapters.registries.oci.manifests import ManifestHead, Manifests
from corral.adapters.registries.oci.ollama_key import OllamaKey
from corral.adapters.registries.oci.piece_sending import PieceSender
from corral.adapters.registries.oci.settings import OciRegistrySettings
from corral.adapters.registries.oci.token_requests import TokenServer
from corral.adapters.registries.oci.upload_session import UploadSession, mount_blob
from corral.adapters.registries.oci.uploads import BlobUpload
from corral.core.models.digests import Digest
from corral.core.models.names import DEFAULT_HOST
from corral.core.models.references import Reference
from corral.core.ports.registries import RemoteManifest, RemoteWriter

__all__ = ("OciRegistry",)


class OciRegistry:
    """A `Registry` for one event loop. It connects with the first request; its creator closes it.

    Beside the port, it has what a store on a registry needs: sizes, lists and deletions.
    """

    def __init__(
        self,
        settings: OciRegistrySettings | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`environment` says where logins are; `clock`, in seconds, when tokens expire."""
        self._settings = settings = settings or OciRegistrySettings()
        self._connections = ConnectionPool(settings)
        tokens = TokenServer(self._connections, OllamaKey(settings.ollama_key))
        authorizer = Authorizer(tokens, Logins(settings, environment), clock)
        self._exchange = RegistryExchange(self._connections, authorizer, settings.insecure)
        self._manifests = Manifests(self._exchange)
        self._blobs = Blobs(self._exchange)

    @property
    def schemes(self) -> tuple[str, ...]:
        return SCHEMES

    async def manifest(self, reference: Reference) -> RemoteManifest:
        return await self._manifests.get(place_of(reference), reference)

    def fetch(
        self, reference: Reference, blob: Digest, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        return self._blobs.fetch(place_of(reference), blob, start, end)

    async def mount(self, reference: Reference, blob: Digest, source: Reference) -> bool:
        place, origin = place_of(reference), place_of(source)
        if await self._blobs.size_bytes(place, blob) is not None:
            return True
        if origin.authority != place.authority or origin.repository == place.repository:
            return False
        return await mount_blob(self._exchange, place, blob, origin)

    async def begin(self, reference: Reference, blob: Digest, size_bytes: int) -> RemoteWriter:
        place = place_of(reference)
        session = await UploadSession.start(self._exchange, place)
        return BlobUpload(
            PieceSender(self._exchange, place, blob, size_bytes, session, self._settings.commit_timeout_s),
            blob,
            size_bytes,
            piece_bytes=max(self._settings.upload_chunk_bytes, session.least_chunk_bytes),
            whole_in_one=place.host != DEFAULT_HOST,  # Ollama's registry takes blobs as pieces only
        )

    async def put(self, reference: Reference, data: bytes, media_type: str) -> Digest:
        return await self._manifests.put(place_of(reference), reference, data, media_type)

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def manifest_head(self, reference: Reference) -> ManifestHead | None:
        """Digest, type and size of a manifest; None if it is not there."""
        return await self._manifests.head(place_of(reference), reference)

    async def blob_size_bytes(self, reference: Reference, blob: Digest) -> int | None:
        """None if the repository does not have the blob; -1 if the registry does not say how large it is."""
        return await self._blobs.size_bytes(place_of(reference), blob)

    async def tags(self, reference: Reference) -> tuple[str, ...]:
        """All tags of a repository. Raises `NotFound` if there is none."""
        return await list_tags(self._exchange, place_of(reference))

    async def repositories(self, host: str, *, insecure: bool = False) -> tuple[str, ...]:
        """The paths of all repositories. Raises `Unsupported` if the registry does not list them."""
        return await list_repositories(self._exchange, host_place(host, insecure=insecure))

    async def delete_manifest(self, reference: Reference) -> None:
        """Deletes the manifest with the reference's digest, or else its tag.

        Raises `NotFound`, and `Unsupported` if the registry does not allow it.
        """
        await self._manifests.delete(place_of(reference), reference)

    async def delete_blob(self, reference: Reference, blob: Digest) -> None:
        """Raises `BlobNotFound`, and `Unsupported` if the registry does not allow it."""
        await self._blobs.delete(place_of(reference), blob)
