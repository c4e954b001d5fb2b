"""Interprets the option `num_thread`: how many threads an engine has."""

from __future__ import annotations

from corral.adapters.system.processors import available_cpus

__all__ = ("most_threads", "threads_for")


def threads_for(num_thread: int) -> int:
    """For an engine whose number of threads stays: 0 or less means one per processor. The result is at most 16, or four
    per processor: threads wait for each other in busy loops, and a hundred threads on two processors would be so slow
    that they seem to hang.
    """
    available = available_cpus()
    return min(num_thread, max(16, 4 * available)) if num_thread > 0 else available


def most_threads(num_thread: int) -> int:
    """For a `ThreadTuner`: 0 or less means one per processor, and no number means more than that. A quota of 1.5
    processors allows two threads to who asks for them: they may be faster, and the tuner finds out.
    """
    return min(num_thread, available_cpus(rounded_up=True)) if num_thread > 0 else available_cpus()
