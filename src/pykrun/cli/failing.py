"""From errors to one line on standard error and an exit status."""

from __future__ import annotations

import os
import sys

from pykrun.errors import PykrunError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FAILED = 1
USAGE = 2
SET_UP_FAILED = 125
"""`run` and `exec` use the statuses 125 to 127 as env, docker and chroot do; everything below is the command's."""


class Manner:
    """How a command fails.

    :ivar status: its exit status then.
    :ivar debug: show a traceback.
    """

    def __init__(self, status: int = USAGE) -> None:
        self.status = status
        self.debug = False


def guarded(action: Callable[[], int], manner: Manner) -> int:
    """Return the action's exit status; of what it raises, tell and make one. What it printed is out then."""
    try:
        status = action()
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except PykrunError as error:
        _complain(str(error), traceback=manner.debug)
        return manner.status if manner.status == SET_UP_FAILED or not isinstance(error, UsageError) else USAGE
    except BrokenPipeError:
        return _broken_pipe()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if _output_is_lost():
            _complain(f"cannot write to standard output: {error.strerror or error}", traceback=manner.debug)
            return SET_UP_FAILED if manner.status == SET_UP_FAILED else FAILED
        name = f": {error.filename!r}" if error.filename else ""
        if not name and _is_homeless():
            _complain("the working directory is gone (cd to one that is there)", traceback=manner.debug)
        else:
            _complain(f"{error.strerror or error}{name} (--debug tells more)", traceback=manner.debug)
        return manner.status
    except MemoryError:
        _complain("there is not enough memory for this (--debug tells more)", traceback=manner.debug)
        return manner.status
    except Exception as error:
        _complain(f"internal error: {error!r} (--debug tells more; please report it)", traceback=manner.debug)
        return manner.status


def _complain(message: str, *, traceback: bool) -> None:
    if traceback:
        from traceback import format_exc

        message = f"{message}\n{format_exc()}"
    try:
        os.write(2, f"pykrun: {message}\n".encode(errors="surrogateescape"))
    except OSError:
        pass


def _output_is_lost() -> bool:
    """Whether standard output does not take what is in its buffer; then nothing may be flushed at exit either."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        sys.stdout = None
        return True
    return False


def _is_homeless() -> bool:
    """Whether the folder that we are in was removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _broken_pipe() -> int:
    """The reader of our own output went away: not worth a word, and nothing may be flushed at exit."""
    sys.stdout = None  # the interpreter's way to say "no standard output"
    return FAILED
