"""Logging of the server, and warnings of other commands: one line per event, on standard error.

Messages contain foreign text, such as names, paths and errors of engines, which is escaped and truncated here.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Sequence

from corral.core.wording.clipping import clipped_line
from corral.core.wording.printable import one_line, printable

__all__ = ("TRACE", "quiet_warnings", "set_up_logging", "set_up_warnings")

TRACE = 5
_LONGEST_MESSAGE = 4000  # characters, so that every line of the log stays readable
_MOST_LINES = 400
_LEVELS = {"trace": TRACE, "debug": 10, "info": 20, "warning": 30, "error": 40}


def set_up_logging(level: str, *, as_json: bool) -> None:
    """Sets up logging for the process. Other packages log only warnings, unless `level` is ``trace``."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING) if level != "trace" else TRACE)
    logging.getLogger("corral").setLevel(_LEVELS[level])
    # Its debug messages include headers, which may contain keys.
    logging.getLogger("httpcore").setLevel(logging.WARNING)


def set_up_warnings() -> None:
    """For commands without a log: shows a warning as one line on standard error, without a traceback."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_WarningFormatter())


def quiet_warnings() -> None:
    """Suppresses warnings, which would disturb shell completion."""
    logging.getLogger().addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")


class _WarningFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        cause = f" ({type(error).__name__}: {error})" if error is not None else ""
        return one_line(record.getMessage() + cause)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The message on one line; lines of a traceback are indented, so that they cannot pass for messages."""
        head, *trace = super().format(record).split("\n")
        return "\n    ".join([head, *_printable_lines(trace)])

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = clipped_line(record.message, _LONGEST_MESSAGE)
        return super().formatMessage(record)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One JSON object, which includes the fields of a request's log line."""
        fields: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": clipped_line(record.getMessage(), _LONGEST_MESSAGE),
        }
        request = getattr(record, "http", None)
        if isinstance(request, dict):
            fields |= request
        if record.exc_info:
            fields["exception"] = "\n".join(_printable_lines(self.formatException(record.exc_info).split("\n")))
        return printable(json.dumps(fields, ensure_ascii=False, default=str))


def _printable_lines(lines: Sequence[str]) -> list[str]:
    """The lines of a traceback; of a very long one, only the beginning and the end."""
    if len(lines) > _MOST_LINES:
        half = _MOST_LINES // 2
        lines = [*lines[:half], f"… {len(lines) - 2 * half} lines …", *lines[-half:]]
    return [clipped_line(line, _LONGEST_MESSAGE) for line in lines]
