"""The smallest ASGI application that streams recorded lines: ``python -m benchmarks.bare_app RECORDING PORT``."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

__all__ = ("BareApp", "main")


class BareApp:
    """Plays back the recording of a number at ``/<number>``; answers other paths with an empty 200."""

    def __init__(self, recordings: list[list[tuple[float, bytes]]]) -> None:
        self._recordings = recordings

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        number = scope["path"].strip("/")
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if number.isdecimal():
            started = time.perf_counter()
            for at_s, piece in self._recordings[int(number)]:
                wait_s = started + at_s - time.perf_counter()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def main() -> None:
    import uvicorn

    recording, port = sys.argv[1:]
    app = BareApp(msgspec.msgpack.decode(Path(recording).read_bytes(), type=list[list[tuple[float, bytes]]]))
    uvicorn.run(
        app, host="127.0.0.1", port=int(port), http="httptools", lifespan="off", access_log=False, log_level="error"
    )


if __name__ == "__main__":
    main()
