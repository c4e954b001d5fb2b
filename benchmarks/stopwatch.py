"""``corral serve`` with a stopwatch: ``python -m benchmarks.stopwatch REPORT ARGUMENTS…`` starts ``corral ARGUMENTS``.

For each chat, it measures the processor time of the server's process from the arrival of the request to the frame that
is written to the model's process. When the server has ended, the nanoseconds are written to REPORT, one line per chat.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from corral.adapters.runners.parent_link import Link
from corral.api.cli import main as corral
from corral.api.http.connection import Connection

__all__ = ("main",)


def main() -> None:
    report, *sys.argv[1:] = sys.argv[1:]
    began_ns = 0
    spent_ns: list[int] = []
    receive: Any = Connection.data_received
    add: Any = Link._add  # writes the one frame of `Dispatch.run`

    def received(connection: Connection, data: bytes) -> None:
        nonlocal began_ns
        if data.startswith(b"POST /api/chat"):
            began_ns = time.process_time_ns()
        receive(connection, data)

    def added(link: Link, *request: Any) -> None:
        add(link, *request)
        spent_ns.append(time.process_time_ns() - began_ns)

    connection_class: Any = Connection
    link_class: Any = Link
    connection_class.data_received, link_class._add = received, added
    try:
        corral()
    finally:
        Path(report).write_text("".join(f"{spent}\n" for spent in spent_ns))


if __name__ == "__main__":
    main()
