"""Signals by name or number, as a command line names them, and those that come to who stands for another process."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself would import enum
import os

from pykrun.errors import UsageError

HANDED_ON = tuple(
    number
    for number in range(1, _signal.SIGRTMAX + 1)
    if number
    not in (
        *(_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD, _signal.SIGPIPE, _signal.SIGURG, 32, 33),
        *(_signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL),
        *(_signal.SIGTRAP, _signal.SIGABRT, _signal.SIGSYS),
    )
)
"""Signals that are meant for the process that somebody stands for."""
HARMLESS = frozenset(
    (
        *(_signal.SIGCHLD, _signal.SIGCONT, _signal.SIGURG, _signal.SIGWINCH),
        *(_signal.SIGSTOP, _signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU),
    )
)
"""What does not end a process by default."""


class Heard:
    """From now on, for this process' life, what comes of `HANDED_ON` does nothing here but wait to be taken.

    :ivar descriptors: the pipe's ends; the first is readable when something has come.
    """

    def __init__(self) -> None:
        self.descriptors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(self.descriptors[1], warn_on_full_buffer=False)
        for number in HANDED_ON:
            _signal.signal(number, _nothing)

    def fileno(self) -> int:
        """What is readable when something has come."""
        return self.descriptors[0]

    def take(self) -> bytes:
        """The numbers of what has come since, in order; empty for nothing."""
        try:
            return os.read(self.descriptors[0], 256)
        except BlockingIOError:
            return b""


def _nothing(_number: int, _frame: object) -> None:
    """The wake-up descriptor gets the number."""


def number_of(word: str) -> int:
    """Return the number of `9`, `KILL`, `SIGKILL` or `sigkill`.

    :raise UsageError: there is no such signal.
    """
    if word.isascii() and word.isdigit() and len(word) < 4:
        number = int(word)
    else:
        name = "SIG" + word.upper().removeprefix("SIG")
        number = _real_time(name) or getattr(_signal, name, 0)
    if not 1 <= number <= _signal.SIGRTMAX:
        raise UsageError(f"unknown signal {word!r}", "a number, or a name as in SIGTERM or TERM")
    return number


def _real_time(name: str) -> int:
    """The number of SIGRTMIN+n or SIGRTMAX-n, 0 for others."""
    for base, sign, step in (("SIGRTMIN", "+", 1), ("SIGRTMAX", "-", -1)):
        rest = name.removeprefix(base + sign)
        if rest != name and rest.isdigit() and len(rest) < 3:
            return int(getattr(_signal, base)) + step * int(rest)
    return 0
