"""The console of a FreeBSD guest. The kernel starts its init without any descriptor."""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec

    from krun_init.freebsd_system import System

    Arguments = ParamSpec("Arguments")

_STANDARD = range(3)


def take(system: System) -> bool:
    """Make the console 0, 1 and 2, and the controlling terminal of a new session; whoever had it open has it no more.

    Without a console 0 is the null device, 1 and 2 are appended to a file, or are what 0 is if that is impossible too.

    :returns: whether it is the console.
    """
    _try(system.revoke, system.console)
    try:
        fd = system.open(system.console, posix.O_RDWR | posix.O_NONBLOCK)
    except OSError:
        _fall_back(system)
        return False
    _try(system.make_blocking, fd)  # only the opening must not wait for a line's carrier
    _try(system.setsid)
    _try(system.ioctl, fd, system.TIOCSCTTY, 0)
    _place(system, fd, *_STANDARD)
    return True


def begin_session(system: System) -> None:
    """A session in any case, the console as its terminal where there is one, and the name of its user."""
    _try(system.setsid)
    _try(system.ioctl, 0, system.TIOCSCTTY, 1)
    _try(system.setlogin, "root")


def take_back(system: System) -> None:
    """Open the console for init's last words: the workload took it, and its end may have taken it from everybody."""
    try:
        fd = system.open(system.console, posix.O_WRONLY | posix.O_NONBLOCK | posix.O_NOCTTY)
    except OSError:
        return
    _try(system.make_blocking, fd)
    _place(system, fd, 1, 2)


def _fall_back(system: System) -> None:
    try:
        _place(system, system.open(system.null, posix.O_RDWR), 0)
    except OSError:
        pass
    try:
        fd = system.open(system.log, posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT, 0o644)
    except OSError:
        _try(system.dup2, 0, 1)
        _try(system.dup2, 0, 2)
        return
    _place(system, fd, 1, 2)


def _place(system: System, fd: int, *targets: int) -> None:
    """Put the descriptor there, and leave it nowhere else."""
    for target in targets:
        if target == fd:
            system.keep(fd)
        else:
            _try(system.dup2, fd, target)
    if fd not in _STANDARD:
        system.close(fd)


def _try(step: Callable[Arguments, object], *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
    """What fails is done without."""
    try:
        step(*args, **kwargs)
    except OSError:
        pass
