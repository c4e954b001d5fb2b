"""The program of a job's child process: ``python -m corral.adapters.runners.job_child FD PARENT_PID``.

The main thread calls the function; the other one watches the socket and ends the process when the parent is gone.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from typing import Any

import msgspec

from corral.adapters.runners.child_setup import extend_import_path, inherited_socket, send_logs
from corral.adapters.runners.frames import (
    PROTOCOL_VERSION,
    Fatal,
    FrameReader,
    JobDone,
    JobFrame,
    LoadShare,
    encode,
    job_decoder,
)
from corral.adapters.system.files import FULL_DISK
from corral.core.errors import CorralError, ErrorInfo, JobFailed, OutOfMemory, OutOfSpace, PluginError
from corral.core.specs.imports import import_name

__all__ = ("main",)


class _Child:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()

    def run(self) -> None:
        """Call the function, send its result, and end the process."""
        job = self._receive()
        extend_import_path(job.path)
        send_logs(self._send, job.log_level)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        try:
            last: JobDone | Fatal = JobDone(self._answer(job))
        except Exception as error:
            last = Fatal(_error_info(error))
        self._send(last)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # native libraries hang in the interpreter's clean-up, and the system frees everything anyway

    def _answer(self, job: JobFrame) -> bytes:
        if job.protocol != PROTOCOL_VERSION:
            raise PluginError(f"the server uses protocol {job.protocol}, its child process {PROTOCOL_VERSION}")
        function = import_name(job.function)
        if job.kind is None:
            answer = function()
        else:
            request = msgspec.msgpack.decode(job.request, type=import_name(job.kind))
            answer = function(request, self._progress)
        try:
            return msgspec.msgpack.encode(answer)
        except (TypeError, ValueError) as error:
            raise PluginError(f"{job.function} returned a value that cannot be sent: {error}") from error

    def _progress(self, share: float) -> None:
        self._send(LoadShare(float(share)))

    def _send(self, frame: Any) -> None:
        """Wait for a parent that reads slowly. If the parent is gone, end the process."""
        data = encode(frame)
        try:
            with self._sending:
                self._sock.sendall(data)
        except OSError:
            os._exit(0)

    def _receive(self) -> JobFrame:
        reader = FrameReader()
        while True:
            size = self._sock.recv_into(reader.buffer())
            if not size:
                os._exit(0)
            for frame in reader.filled(size):
                return job_decoder().decode(frame)

    def _watch(self) -> None:
        try:
            while self._sock.recv(4096):
                pass
        finally:
            os._exit(0)  # the parent is gone


def _error_info(error: Exception) -> ErrorInfo:
    if isinstance(error, CorralError):
        return error.info
    if isinstance(error, MemoryError):
        return ErrorInfo(code=OutOfMemory.code, message=f"out of memory: {error}" if str(error) else "out of memory")
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return ErrorInfo(code=OutOfSpace.code, message=f"the disk is full: {error}")
    logging.getLogger(__name__).debug("the job raised an exception", exc_info=error)
    return ErrorInfo(code=JobFailed.code, message=f"{type(error).__name__}: {error}")


def main() -> None:
    _Child(inherited_socket()).run()


if __name__ == "__main__":
    main()
