"""Forking with as many namespaces as the host's kernel grants."""

from __future__ import annotations

import os

from pykrun.errors import EngineError, SandboxError
from pykrun.host import linux
from pykrun.sandbox.jail import NAMESPACES, REDUCED, USER_NAMESPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Wish = Literal["auto", "require"]
else:
    Wish = str

_ATTEMPTS = ((NAMESPACES, linux.CLONE_NEWPID), (USER_NAMESPACE, linux.CLONE_NEWUSER | linux.CLONE_NEWPID), (REDUCED, 0))


def fork(wish: Wish, *, user_namespace: bool = True) -> tuple[str, int, int, str]:
    """Fork with the most isolation that the kernel grants: (level, pid, pidfd, why not more); pid 0 in the child.

    The caller has blocked all signals and is the only thread of its process.

    :param user_namespace: one that maps only the caller's id will do.

    :raise SandboxError: the host's kernel allows no namespaces, and they were required.
    :raise EngineError: the host can run no further process.
    """
    note = ""
    for level, flags in _ATTEMPTS:
        if (level == NAMESPACES and os.geteuid() != 0) or (level == USER_NAMESPACE and not user_namespace):
            continue
        if level == REDUCED and wish == "require":
            raise SandboxError(
                f"this host allows no namespaces to the engine ({note})",
                "run as root, allow user namespaces, or leave out --sandbox require",
            )
        try:
            pid, pidfd = linux.clone(flags)
        except OSError as error:
            if level == REDUCED:
                raise EngineError(f"cannot start a process: {error.strerror}") from None
            note = f"{'user namespaces' if flags & linux.CLONE_NEWUSER else 'namespaces'}: {error.strerror}"
        else:
            return level, pid, pidfd, note if level == REDUCED else ""
    raise AssertionError("the last attempt returns or raises")


def check_single_thread() -> None:
    """Make sure that the bare fork is safe.

    :raise EngineError: the process has threads.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise EngineError("an engine cannot be started from a process with threads", "start `pykrun run` instead")
