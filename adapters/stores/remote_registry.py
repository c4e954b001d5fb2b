"""What a store needs of the registry that it is on, and how the registry's errors become those of a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from corral.core.errors import BlobNotFound, NotFound, ReadOnly, SourceError, StorageError, Unsupported
from corral.core.models.digests import Digest
from corral.core.models.references import Reference
from corral.core.ports.registries import Registry

__all__ = ("ManifestDigest", "StorageRegistry", "registry_errors")


class ManifestDigest(Protocol):
    """What a registry says of a manifest without sending it."""

    @property
    def digest(self) -> Digest: ...


class StorageRegistry(Registry, Protocol):
    """A registry with lists, sizes and deletions. Everything raises what `Registry` raises."""

    async def manifest_head(self, reference: Reference) -> ManifestDigest | None:
        """None if there is no such manifest."""
        ...

    async def blob_size_bytes(self, reference: Reference, blob: Digest) -> int | None:
        """None if the repository does not have the blob; -1 if the registry does not say how large it is."""
        ...

    async def tags(self, reference: Reference) -> tuple[str, ...]:
        """All tags of a repository. Raises `NotFound` if there is none."""
        ...

    async def repositories(self, host: str) -> tuple[str, ...]:
        """The paths of all repositories. Raises `Unsupported` if the registry does not list them."""
        ...

    async def delete_manifest(self, reference: Reference) -> None:
        """Deletes the manifest with the reference's digest, or else its tag.

        Raises `NotFound`, and `Unsupported` if the registry does not allow it.
        """
        ...


@contextmanager
def registry_errors(subject: str) -> Iterator[None]:
    """Turns an error of the registry into one of a store; the message begins with `subject`."""
    try:
        yield
    except BlobNotFound:
        raise
    except (SourceError, NotFound) as error:
        raise StorageError(f"{subject}: {error.message}", error.remedy) from error
    except Unsupported as error:
        raise ReadOnly(f"{subject}: {error.message}", error.remedy) from error
