"""A process that imports a checkpoint, in a child that is killed after some time. For `test_killed_conversions.py`.

It reads a line of JSON for each run, forks, and imports in the child: so a run costs no start of Python. Prints the
child's exit status and how long it took.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from corral.core.models.names import parse_name
from corral.plugins.assembly import assemble, load_plugins, read_layers


async def imported(run: dict[str, Any]) -> None:
    """Imports the checkpoint, quantized if the run says so."""
    layers = read_layers("", environment={}, flags={"store": run["root"]})
    assembly = await assemble(layers, manager=load_plugins(layers))
    try:
        catalog = assembly.runtime.catalog
        await catalog.import_file(Path(run["folder"]), parse_name(run["name"]), lambda progress: None, run["quantize"])
    finally:
        await assembly.aclose()


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        run = json.loads(line)
        began_s = time.monotonic()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if run["kill_after_s"] is not None:
                    signal.setitimer(signal.ITIMER_REAL, run["kill_after_s"])  # its signal ends it like SIGKILL
                asyncio.run(imported(run))
                status = 0
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([status, time.monotonic() - began_s]), flush=True)


if __name__ == "__main__":
    main()
