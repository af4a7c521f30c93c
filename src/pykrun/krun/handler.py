"""The handler of `logging` that writes the log where a caller of the API wants it."""

from __future__ import annotations

import logging
import os
import time

from pykrun.krun.messages import DEBUG, ERROR, INFO, NAME, TRACE, WARNING

LEVELS = (logging.CRITICAL + 10, ERROR, WARNING, INFO, DEBUG, TRACE)
"""By the API's numbers, 0 to 5."""
COLOURS = {ERROR: "\x1b[31m", WARNING: "\x1b[33m", INFO: "\x1b[32m"}

logging.addLevelName(TRACE, "TRACE")


class FdHandler(logging.Handler):
    """Writes whole lines to a descriptor: time (UTC, microseconds), level, name, text.

    :param style: `auto`, `always` or `never`.
    :param owned: close it at the end.
    :raise OSError: it is not open.
    """

    def __init__(self, target: int, style: str, *, owned: bool) -> None:
        super().__init__()
        os.fstat(target)
        self._target = target
        self._owned = owned
        self._coloured = style == "always" or (style == "auto" and os.isatty(target))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. A target that fails loses it: the program goes on."""
        seconds, fraction = divmod(record.created, 1)
        when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(fraction * 1e6):06d}Z"
        level = record.levelname
        if self._coloured:
            level = f"{COLOURS.get(record.levelno, '')}{level}\x1b[0m"
        line = f"[{when} {level} {record.name}] {self.format(record)}\n"
        try:
            os.write(self._target, line.encode(errors="backslashreplace"))
        except OSError:
            pass

    def close(self, heir: FdHandler | None = None) -> None:
        """Close the target, if it is the log's own, and not the heir's."""
        if self._owned and self._target >= 0:
            try:
                if heir is None or heir._target != self._target:
                    os.close(self._target)
            except OSError:
                pass
            self._target = -1
        super().close()


def listen(level: int) -> None:
    """Log to standard error, but where a program has handlers of its own, or `write_to` was called, there.

    :raise OSError: standard error is not open.
    """
    logger = logging.getLogger(NAME)
    logger.setLevel(LEVELS[level])
    if not logging.getLogger().handlers and not any(isinstance(found, FdHandler) for found in logger.handlers):
        _install(FdHandler(2, "auto", owned=False), propagate=True)


def write_to(target: int, level: int, style: str, *, owned: bool) -> None:
    """Log to a descriptor, and only there.

    :raise OSError: it is not open.
    """
    handler = FdHandler(target, style, owned=owned)
    logging.getLogger(NAME).setLevel(LEVELS[level])
    _install(handler, propagate=False)


def _install(handler: FdHandler, *, propagate: bool) -> None:
    """Make it the only handler of ours."""
    logger = logging.getLogger(NAME)
    for old in list(logger.handlers):
        if isinstance(old, FdHandler):
            logger.removeHandler(old)
            old.close(heir=handler)
    logger.addHandler(handler)
    logger.propagate = propagate
