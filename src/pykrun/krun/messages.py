"""What the API has to say, to Python's `logging` under the name `pykrun.krun`.

`logging` takes as long to import as the rest of the API. It is imported when a caller asks for the log, or has it
already; else nobody listens, and, as with libkrun, nothing is said.
"""

from __future__ import annotations

import sys

NAME = "pykrun.krun"
ERROR, WARNING, INFO, DEBUG, TRACE = 40, 30, 20, 10, 5
"""Levels, as `logging` has them; the last one is ours."""

_quiet = False


def tell(level: int, text: str, *arguments: object, exc_info: Exception | None = None) -> None:
    """Say one line."""
    if (logging := sys.modules.get("logging")) is None:
        return
    global _quiet
    logger = logging.getLogger(NAME)
    if not _quiet:
        _quiet = True
        logger.addHandler(logging.NullHandler())  # else what nobody asked for would be written to standard error
    logger.log(level, text, *arguments, exc_info=exc_info)


def is_heard() -> bool:
    """Whether an error reaches anybody."""
    if (logging := sys.modules.get("logging")) is None:
        return False
    logger = logging.getLogger(NAME)
    handlers = (*logger.handlers, *(logging.getLogger().handlers if logger.propagate else ()))
    return logger.isEnabledFor(ERROR) and any(type(handler) is not logging.NullHandler for handler in handlers)
