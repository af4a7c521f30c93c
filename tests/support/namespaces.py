"""Being in another process's namespaces for a while."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x20000  # <linux/sched.h>

_libc = ctypes.CDLL(None, use_errno=True)


def set_namespace(descriptor: int, flag: int) -> None:
    """setns(2)."""
    if _libc.setns(descriptor, flag) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def enter(pid: int, kind: str, flag: int) -> None:
    """Go into a process's namespace, `kind` being its name in /proc, with this thread and for good."""
    descriptor = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        set_namespace(descriptor, flag)
    finally:
        os.close(descriptor)


@contextmanager
def network_of(pid: int) -> Iterator[None]:
    """Be in a process's network namespace with this thread.

    Not with a thread made for it: one that is just about to end may hold a lock of malloc when a test clones this
    process, and then the copy waits for that lock for ever.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(pid, "net", CLONE_NEWNET)
        yield
    finally:
        set_namespace(own, CLONE_NEWNET)
        os.close(own)
