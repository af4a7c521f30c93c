"""A full memory fence from Python, for memory that is shared with another process's virtual CPUs.

Two places of a split virtqueue need one (virtio 1.2, 2.7.13.4.1 and 2.7.14): a store must be seen by the other side
before a later load of ours is done. x86 keeps all other orders by itself (loads among loads, stores among stores), so
there any instruction with a `lock` prefix will do, and releasing a Python lock is one.

aarch64 keeps none of them: it needs `dmb ish` at these two places, and weaker barriers after reading the available
index and before writing the used index. A Python lock is not enough (its acquire and release let a store pass a later
load), so there the fence is libatomic's, and the ring calls it at all four places.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Callable

from pykrun.errors import MissingError

STRONGLY_ORDERED = os.uname().machine in ("x86_64", "i686")
"""Loads stay in order among loads and stores among stores: only store-then-load needs a fence."""

_SEQ_CST = 5  # <stdatomic.h>: memory_order_seq_cst


def new_fence() -> Callable[[], None]:
    """Return a full fence for the use of one thread.

    :raise MissingError: the processor needs a barrier that is not to be had here.
    """
    return _locked_operation() if STRONGLY_ORDERED else _libatomic_fence()


def _locked_operation() -> Callable[[], None]:
    lock = allocate_lock()
    acquire, release = lock.acquire, lock.release

    def fence() -> None:
        # Not blocking: an exception from a signal handler between the two must not make the next fence wait for ever.
        # If it is still taken, releasing it is the locked operation.
        acquire(False)
        release()

    return fence


def _libatomic_fence() -> Callable[[], None]:
    import ctypes  # 10 ms, and of no use on x86

    try:
        thread_fence = ctypes.CDLL("libatomic.so.1").atomic_thread_fence
    except (OSError, AttributeError) as error:
        raise MissingError("no memory fence on this processor without libatomic", "apt install libatomic1") from error
    thread_fence.argtypes = (ctypes.c_int,)
    thread_fence.restype = None
    return lambda: thread_fence(_SEQ_CST)
