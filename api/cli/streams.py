"""Makes the standard streams usable, even if they are closed or their character set is not Unicode."""

from __future__ import annotations

import io
import os
import sys

__all__ = ("open_standard_streams",)


def open_standard_streams() -> None:
    """Replaces closed streams, as by ``<&-`` in a shell, with the null device.

    Otherwise the next file to be opened, such as a model or a socket, would get the number of a standard stream, and
    native code would print into it. Python itself sets such a stream to None.
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
        # Characters that the terminal's character set lacks are shown as escapes.
        if isinstance(output, io.TextIOWrapper) and output.errors == "strict":
            output.reconfigure(errors="backslashreplace")
