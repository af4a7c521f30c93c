"""The start, which only returns when it fails, and the way to ask for the end."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself would import enum
import errno
import os
import sys
from contextlib import ExitStack

from pykrun.errors import MissingError, PykrunError
from pykrun.krun import calls, context
from pykrun.krun.calls import Refusal, call, failure
from pykrun.krun.description import describe
from pykrun.krun.lifetime import start_shim
from pykrun.krun.messages import DEBUG, ERROR, INFO, WARNING, is_heard, tell
from pykrun.request import Outcome
from pykrun.shim import Ended, Failed, Named, Reached, Shim
from pykrun.signals import FORWARDED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, Never

    Handler = Callable[[int, FrameType | None], Any] | int | None

NAME = "krun_start_enter"
SET_UP_FAILED = 125
LEVELS = (ERROR, WARNING, INFO, DEBUG)
"""Levels of `logging` for those of the guest's log: error, warning, information, debug."""


@call
def krun_get_shutdown_eventfd(ctx_id: int) -> int:
    """Return an eventfd: a number written to it asks the guest for an orderly end (TERM, a grace, then KILL).

    It is the context's, the same one at each call, and goes on to work while the VM runs. Ask for it before the start.

    :return: the descriptor; -ENOENT: no such context; -EMFILE and the like: there is no room for one.
    """
    found = context.find(ctx_id)
    if found.shutdown < 0:
        found.shutdown = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    return found.shutdown


def krun_start_enter(ctx_id: int) -> int:
    """Start the VM, wait for its end, and end this process with the workload's exit code, by `os._exit`.

    It consumes the context, and takes over standard input, output and error. 125 is an init that could not set up, 126
    a program that is not executable, 127 one that is not there, 128+n a signal. SIGINT, SIGTERM and the like are handed
    on to the VM where the process has no handlers for them (from the main thread only).

    :return: only if the VM could not be started: -ENOENT: no such context, no engine or kernel; -EINVAL: what was
        asked for cannot be; what setgid or setuid say.
    """
    try:
        with calls.LOCK:
            found = context.take(ctx_id)
        try:
            return _enter(found)
        finally:
            found.close()
    except Exception as error:
        return failure(NAME, error)


def _enter(found: context.Context) -> int:
    with ExitStack() as stack:
        request = describe(found, stack)
        found.shim = shim = found.shim or start_shim()
        if shim is None:
            raise Refusal(errno.EAGAIN, "the supervisor's process cannot be started")
        _flush()
        try:
            shim.launch(request)
        except PykrunError as error:
            raise Refusal(errno.EIO, str(error)) from None
        for number, old in _forward(shim).items():
            stack.callback(signal.signal, number, old)
        event = shim.receive()
        while isinstance(event, Reached | Named):
            if isinstance(event, Reached):
                tell(DEBUG, "%s: %s", NAME, event.phase)
            event = shim.receive()
        if isinstance(event, Failed):
            raise _refusal(event)
        assert isinstance(event, Ended), "the last event says how it went"
        _leave(shim, event.outcome)


def _leave(shim: Shim, outcome: Outcome) -> Never:
    """End this process as the workload ended."""
    for level, text in outcome.log:
        tell(LEVELS[min(level, 3)], "guest: %s", text)
    for text in outcome.warnings:
        tell(WARNING, "%s", text)
    reason = outcome.reason or ("the VM was not set up" if outcome.exit_code == SET_UP_FAILED else "")
    if reason:
        tell(ERROR, "%s", "\n  | ".join((reason, *outcome.console)))
        if outcome.exit_code == SET_UP_FAILED and not is_heard():
            _complain(reason)
    shim.close()
    os._exit(outcome.exit_code)


def _refusal(event: Failed) -> Refusal:
    """What a start that failed returns: libkrun knows ENOENT for a kernel that is not there, EINVAL for the rest."""
    text = f"{event.message} ({event.hint})" if event.hint else event.message
    if event.number:
        return Refusal(event.number, text)
    return Refusal(errno.ENOENT if event.kind == MissingError.__name__ else errno.EINVAL, text)


def _forward(shim: Shim) -> dict[int, Handler]:
    """Hand signals on that nobody here has asked for; return what they did before."""
    usual = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [number for number in FORWARDED if signal.getsignal(number) in usual]
    try:
        return {number: signal.signal(number, lambda number, _frame: shim.hear(number)) for number in numbers}
    except ValueError:  # from the first one: this is not the main thread
        return {}


def _flush() -> None:
    """What was written so far comes before what the guest writes; this process will not come back to do it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # there is none, or it is closed
            pass


def _complain(reason: str) -> None:
    """Say it on standard error: an exit code alone would tell nobody what is wrong."""
    try:
        os.write(2, f"krun: {reason}\n".encode(errors="surrogateescape"))
    except OSError:
        pass
