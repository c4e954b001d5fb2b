"""Makes the standard streams usable whatever the process was started with: closed ones, and narrow character sets."""

from __future__ import annotations

import io
import os
import sys

__all__ = ("open_standard_streams",)


def open_standard_streams() -> None:
    """A stream that is closed, as by ``<&-`` in a shell, becomes the null device.

    Otherwise the next file that is opened, a model or a socket, would get the number of a standard stream, and what
    native code prints would be written into it. Python itself has None for such a stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    for output in (sys.stdout, sys.stderr):
        # A terminal whose character set is not Unicode shows what it lacks as an escape.
        if isinstance(output, io.TextIOWrapper) and output.errors == "strict":
            output.reconfigure(errors="backslashreplace")
