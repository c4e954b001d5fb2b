"""How a server writes its log, and a command its warnings: one line per event, on standard error."""

from __future__ import annotations

import json
import logging
import time
import warnings

from corral.core.printable import one_line, printable

__all__ = ("TRACE", "quiet_warnings", "set_up_logging", "set_up_warnings")

TRACE = 5
_LEVELS = {"trace": TRACE, "debug": 10, "info": 20, "warning": 30, "error": 40}


def set_up_logging(level: str, *, as_json: bool) -> None:
    """Once, for the process. Other packages' loggers speak from `warning` up, unless everything is wanted."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING) if level != "trace" else TRACE)
    logging.getLogger("corral").setLevel(_LEVELS[level])


def set_up_warnings() -> None:
    """For commands without a log: a warning is one line on standard error, without a traceback."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_WarningFormatter())


def quiet_warnings() -> None:
    """Nothing is printed: a shell that completes a word has no place for it."""
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
        """One line, whatever is in it: a log that is cut into lines again must not be fooled."""
        return printable(super().format(record)).replace("\n", "\n    ")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """A request's own fields are fields here too."""
        fields: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = getattr(record, "http", None)
        if isinstance(request, dict):
            fields |= request
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return printable(json.dumps(fields, ensure_ascii=False, default=str))
