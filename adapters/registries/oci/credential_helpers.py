"""Asks Docker's credential helpers, ``docker-credential-NAME``, programs that keep logins elsewhere."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from corral.adapters.registries.oci.auth_files import Login, login_from_helper
from corral.core.malformed import MALFORMED
from corral.core.wording.clipping import clipped_line

__all__ = ("ask_helper",)

_log = logging.getLogger(__name__)

_LIMIT_S = 30.0
_ANSWER_BYTES = 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NONE = re.compile(r"credentials not found|no credentials", re.IGNORECASE)


class _Found(msgspec.Struct):
    Username: str = ""  # the names in the answer
    Secret: str = ""


async def ask_helper(name: str, servers: Sequence[str], *, limit_s: float = _LIMIT_S) -> Login | None:
    """The login of the first of `servers` that the helper knows. A helper that fails is logged, and counts as empty.

    It runs as a child process, which is ended after `limit_s`, or when the caller is cancelled.
    """
    if not _NAME.fullmatch(name):
        _log.warning("not the name of a credential helper: %s", clipped_line(repr(name), 80))
        return None
    for server in servers:
        try:
            async with asyncio.timeout(limit_s):
                status, answer = await _run(f"docker-credential-{name}", server)
        except TimeoutError:
            _log.warning("docker-credential-%s did not answer within %g s", name, limit_s)
            return None
        except OSError as fault:
            _log.warning("docker-credential-%s cannot be run: %s", name, fault.strerror or fault)
            return None
        if status == 0:
            try:
                found = msgspec.json.decode(answer, type=_Found)
            except MALFORMED:
                _log.warning("docker-credential-%s answered no JSON object", name)
                return None
            if found.Secret:
                return login_from_helper(found.Username, found.Secret)
        elif not _NONE.search(said := answer.decode(errors="replace")):
            _log.warning("docker-credential-%s failed: %s", name, clipped_line(said.strip()) or f"status {status}")
            return None
    return None


async def _run(program: str, server: str) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        program,
        "get",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(server.encode())
            await process.stdin.drain()
            process.stdin.close()
        answer = await process.stdout.read(_ANSWER_BYTES)
        while len(answer) < _ANSWER_BYTES and (more := await process.stdout.read(_ANSWER_BYTES - len(answer))):
            answer += more
        return await process.wait(), answer
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
