"""The program of a model's child process: ``python -m corral.adapters.runners.child FD PARENT_PID``.

The main thread owns the engine and steps it. Another thread talks to the parent over the inherited socket, and ends the
process at once if the parent is gone. Two more answer tokenizer calls (`tokenizing`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import sys
import threading
import time
import traceback
from queue import SimpleQueue

import msgspec

from corral.adapters.runners.child_link import Uplink
from corral.adapters.runners.child_setup import extend_import_path, inherited_socket, send_logs
from corral.adapters.runners.frames import (
    PROTOCOL_VERSION,
    DownFrame,
    Fatal,
    FrameReader,
    GiveUp,
    Heartbeat,
    InfoChanged,
    Load,
    LoadShare,
    Ready,
    TokenizerCall,
    down_decoder,
    load_decoder,
)
from corral.adapters.runners.stepping import Command, Stepper, load_engine
from corral.adapters.runners.tokenizing import Tokenizing
from corral.core.errors import CorralError, PluginError
from corral.core.ports.running import ModelInfo
from corral.core.specs.imports import import_name
from corral.core.stepping.loops import error_info

__all__ = ("main",)

_LAST_WORDS_S = 2.0


class _Child:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = FrameReader()
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._tokenizing: Tokenizing | None = None
        self._stepper: Stepper | None = None
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._uplink = Uplink(sock, self._wake)
        self._first_frames: list[memoryview] = []

    def run(self) -> None:
        """Serve until `Close`, then free the engine and end the process."""
        load = self._receive_load()
        extend_import_path(load.path)
        send_logs(self._uplink.send, load.log_level)
        try:
            if load.protocol != PROTOCOL_VERSION:
                raise PluginError(f"the server uses protocol {load.protocol}, its child process {PROTOCOL_VERSION}")
            decoder = down_decoder([import_name(path) for path in load.request_types])
            threading.Thread(target=self._talk, args=(decoder, load.heartbeat_s), name="io", daemon=True).start()
            loop, info = load_engine(
                engine=load.engine,
                form=load.form,
                load=load.load,
                install_hint=load.install_hint,
                request=load.request,
                on_progress=lambda share: self._uplink.send(LoadShare(share)),
            )
            self._stepper = Stepper(loop, self._commands, self._uplink.send_step, self._info_changed)
            self._tokenizing = Tokenizing(loop.engine.tokenizer, self._uplink.send)
            self._uplink.send(Ready(PROTOCOL_VERSION, _of_this_process(info)))
            self._stepper.run()
            self._tokenizing.close()
            loop.engine.close()
        except BaseException as error:  # a panic of native code, or a plugin's `SystemExit`
            if not isinstance(error, CorralError):
                logging.getLogger(__name__).exception("the engine failed")
            self._uplink.send(Fatal(error_info(error)))
            self._end(1)
        self._end(0)

    def _info_changed(self, info: ModelInfo) -> None:
        self._uplink.send(InfoChanged(_of_this_process(info)))

    def _end(self, code: int) -> None:
        """Skip the interpreter's clean-up: native libraries hang in it, and the system frees everything anyway."""
        deadline = time.monotonic() + _LAST_WORDS_S
        while self._uplink.pending and time.monotonic() < deadline:
            time.sleep(0.01)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _receive_load(self) -> Load:
        self._sock.setblocking(True)
        while not self._first_frames:
            size = self._sock.recv_into(self._frames.buffer())
            if not size:
                os._exit(0)
            self._first_frames = self._frames.filled(size)
        self._sock.setblocking(False)
        return load_decoder().decode(self._first_frames.pop(0))

    # ── The I/O thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is awake already
            os.write(self._wake_writer, b"\0")

    def _talk(self, decoder: msgspec.msgpack.Decoder[DownFrame], heartbeat_s: float) -> None:
        try:
            self._talk_on(decoder, heartbeat_s)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)  # without this thread, the end of the parent would go unnoticed

    def _talk_on(self, decoder: msgspec.msgpack.Decoder[DownFrame], heartbeat_s: float) -> None:
        for frame in self._first_frames:
            self._take(decoder.decode(frame))
        selector = selectors.DefaultSelector()
        selector.register(self._wake_reader, selectors.EVENT_READ)
        selector.register(self._sock, selectors.EVENT_READ)
        next_beat = time.monotonic() + heartbeat_s
        while True:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._uplink.pending else 0)
            selector.modify(self._sock, events)
            for key, mask in selector.select(max(0.0, next_beat - time.monotonic())):
                if key.fileobj is not self._sock:
                    os.read(self._wake_reader, 4096)
                    continue
                if mask & selectors.EVENT_READ:
                    self._read(decoder)
                if mask & selectors.EVENT_WRITE:
                    self._uplink.flush()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + heartbeat_s
                if not self._uplink.pending:  # a parent that does not read needs no more heartbeats
                    self._uplink.send(Heartbeat(self._stepper.step_s if self._stepper is not None else 0.0))

    def _read(self, decoder: msgspec.msgpack.Decoder[DownFrame]) -> None:
        try:
            size = self._sock.recv_into(self._frames.buffer())
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            os._exit(0)  # the parent is gone
        for frame in self._frames.filled(size):
            self._take(decoder.decode(frame))

    def _take(self, frame: DownFrame) -> None:
        if isinstance(frame, TokenizerCall):
            if self._tokenizing is not None:  # there are no calls before the model is loaded
                self._tokenizing.begin(frame)
        elif isinstance(frame, GiveUp):
            if self._tokenizing is not None:
                self._tokenizing.give_up(frame.call_id)
        else:
            self._commands.put(frame)


def _of_this_process(info: ModelInfo) -> ModelInfo:
    return msgspec.structs.replace(info, process_id=os.getpid())


def main() -> None:
    _Child(inherited_socket()).run()


if __name__ == "__main__":
    main()
