"""The port of kept responses: what an API has answered, for clients that ask for it again or go on from it."""

from __future__ import annotations

from typing import Protocol

from corral.core.values import Value

__all__ = ("KeptResponse", "ResponseStore")


class KeptResponse(Value, frozen=True, kw_only=True):
    """A response as its API made it. `owner` is the name of the principal it belongs to.

    `reply` is the JSON object that the API answers, `input_items` a JSON array: all it was made from, oldest first.
    """

    id: str
    owner: str
    reply: bytes
    input_items: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.reply) + len(self.input_items)


class ResponseStore(Protocol):
    """Keeps responses for their owners, within a number, a size and a time since they were last used."""

    async def put(self, response: KeptResponse) -> bool:
        """Keeps a response, in place of an earlier one of the same owner and id. Those that were used least recently
        leave if there is no room.

        False if it is larger than all the room there is. Raises `StorageError`.
        """
        ...

    async def get(self, owner: str, id: str) -> KeptResponse | None:
        """The owner's response of this id, which counts as a use.

        None if it has none, if it has expired or left, or if what was kept of it is damaged.
        """
        ...

    async def delete(self, owner: str, id: str) -> bool:
        """Forgets a response. False if the owner has none of this id. Raises `StorageError`."""
        ...
