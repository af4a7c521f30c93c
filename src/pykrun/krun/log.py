"""The log: Python's, under the name `pykrun.krun`, as loud as the caller asks for."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from io import TextIOWrapper

from pykrun.krun.calls import LOGGER, Refusal, call, descriptor, number

OFF, ERROR, WARN, INFO, DEBUG, TRACE = range(6)
LEVELS = (logging.CRITICAL + 10, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, 5)
NAMES = {"off": OFF, "error": ERROR, "warn": WARN, "info": INFO, "debug": DEBUG, "trace": TRACE}
STYLES = ("auto", "always", "never")
STDERR, NO_ENV = -1, 1
COLOURS = {logging.ERROR: "\x1b[31m", logging.WARNING: "\x1b[33m", logging.INFO: "\x1b[32m"}

logging.addLevelName(LEVELS[TRACE], "TRACE")


@call
def krun_set_log_level(level: int) -> int:
    """Log what is at least that important: 0 nothing, 1 errors, 2 warnings, 3 information, 4 debug, 5 everything.

    A level above 5 means 5. `RUST_LOG` in the environment overrides it. Lines go to standard error, or, in a Python
    program that has set up its own logging, where that sends them.

    :return: 0; -EINVAL: no number of 32 bits.
    """
    level = min(number("level", level), TRACE)
    LOGGER.setLevel(LEVELS[_from_environment(level)])
    if not logging.getLogger().handlers:
        _install(_Handler(sys.__stderr__ or _to(2), owned=False, style="auto"), propagate=True)
    return 0


@call
def krun_init_log(target_fd: int, level: int, style: int, options: int) -> int:
    """Log to a descriptor.

    :param target_fd: -1 is standard error; any other but 1 and 2 becomes the log's own, which closes it at its end.
    :param level: see `krun_set_log_level`.
    :param style: colours: 0 on a terminal, 1 always, 2 never.
    :param options: 1: the variables `RUST_LOG` and `RUST_LOG_STYLE` do not override level and style.
    :return: 0; -EINVAL: descriptor 0 or below -1, another style or other options; -EBADF: it is not open.
    """
    if not isinstance(target_fd, int) or target_fd < STDERR or target_fd == 0:
        raise Refusal(errno.EINVAL, f"descriptor {target_fd!r} cannot be the log's target")
    target = descriptor("target_fd", target_fd)
    level = min(number("level", level), TRACE)
    if number("style", style) >= len(STYLES):
        raise Refusal(errno.EINVAL, f"there is no style {style}")
    if number("options", options) & ~NO_ENV:
        raise Refusal(errno.EINVAL, f"there are no options {options:#x}")
    name = STYLES[style]
    if not options & NO_ENV:
        level = _from_environment(level)
        if os.environ.get("RUST_LOG_STYLE") in STYLES:
            name = os.environ["RUST_LOG_STYLE"]
    owned = target not in (STDERR, 1, 2)
    os.fstat(2 if target == STDERR else target)
    LOGGER.setLevel(LEVELS[level])
    _install(_Handler(_to(2 if target == STDERR else target), owned=owned, style=name), propagate=False)
    return 0


class _Handler(logging.Handler):
    """Writes whole lines to one stream: time (UTC, microseconds), level, name, text."""

    def __init__(self, stream: object, *, owned: bool, style: str) -> None:
        super().__init__()
        assert isinstance(stream, TextIOWrapper)
        self._stream = stream
        self._owned = owned
        self._coloured = style == "always" or (style == "auto" and stream.isatty())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. A target that fails loses it: the program goes on."""
        seconds, fraction = divmod(record.created, 1)
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(fraction * 1e6):06d}Z"
        level = record.levelname
        if self._coloured:
            level = f"{COLOURS.get(record.levelno, '')}{level}\x1b[0m"
        try:
            self._stream.write(f"[{when} {level} {record.name}] {record.getMessage()}\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass

    def close(self) -> None:
        """Close the target, if it is the log's own."""
        if self._owned:
            try:
                self._stream.close()
            except OSError:
                pass
        super().close()


def _to(fd: int) -> TextIOWrapper:
    return TextIOWrapper(
        open(fd, "wb", closefd=fd > 2), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def _install(handler: _Handler, *, propagate: bool) -> None:
    """Make it the only handler of ours."""
    for old in [old for old in LOGGER.handlers if isinstance(old, _Handler)]:
        LOGGER.removeHandler(old)
        old.close()
    LOGGER.addHandler(handler)
    LOGGER.propagate = propagate


def _from_environment(level: int) -> int:
    """What `RUST_LOG` says: a level, alone or (`pykrun=debug`) for us; else `level`."""
    for word in os.environ.get("RUST_LOG", "").lower().split(","):
        module, separator, value = word.strip().rpartition("=")
        if value in NAMES and (not separator or module in ("pykrun", "krun", "libkrun")):
            level = NAMES[value]
    return level
