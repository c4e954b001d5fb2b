"""How transfers are cut into parts, how long they wait, and how often they try again."""

from __future__ import annotations

from corral.core.values import Value

__all__ = ("USUAL_POLICY", "TransferPolicy")


class TransferPolicy(Value, frozen=True, kw_only=True):
    """A blob comes in parts of `part_bytes`, `parts_at_once` of them at a time, and `streams_at_once` of all blobs.

    A stream that brings nothing for `stall_s` begins again where it stopped, as often as it takes. After another fault,
    the transfer waits for `pause_s`, then twice as long each time; it ends after `tries` faults without a byte in
    between. `poll_s` is how often the download of another process is looked at.
    """

    # Short beside a large blob and begun in order, so that hashing keeps up, and one slow stream holds up little.
    part_bytes: int = 64_000_000
    parts_at_once: int = 8
    streams_at_once: int = 16
    stall_s: float = 30.0
    tries: int = 6
    pause_s: float = 1.0
    poll_s: float = 0.2

    def pause_after_s(self, faults: int) -> float:
        """How long to wait after this many faults."""
        return self.pause_s * float(1 << (faults - 1))


USUAL_POLICY = TransferPolicy()
