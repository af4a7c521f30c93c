"""Secrets of the host in memory of their own: no process forked from this one has them, no core dump shows them.

Python's bytes cannot be overwritten, and a bytearray lies in the heap, which a fork shares with the child as it was:
the child's copy outlives whatever the parent wipes.
"""

from __future__ import annotations

import os
from mmap import ALLOCATIONGRANULARITY as PAGE
from mmap import MADV_DONTDUMP, MADV_DONTFORK, MAP_ANONYMOUS, MAP_PRIVATE, mmap

from pykrun.buffers import wipe
from pykrun.host.unsized import room, too_much

UNSIZED = 1 << 30
"""Bytes that come beyond the size that a file has: all of a pipe's, whose size is 0."""
_PLENTY = 64 << 20
"""Below that nobody looks how much memory is free."""


def read_secret(descriptor: int) -> memoryview:
    """Read what a file, pipe or device has from here to its end, without a copy anywhere else in this process.

    :return: a writable view of exactly the content. Whoever holds it wipes it (`pykrun.buffers.wipe`); the memory is
        given back with the last view. In a forked child it is not there: touching it there is SIGSEGV.
    :raise OSError: as read(2), ENOMEM, EFBIG when it does not end; what was read is wiped.
    """
    size = os.fstat(descriptor).st_size
    area = _allocate(size + 1)  # one more, to see the end without growing
    count = 0
    try:
        while True:
            if count == len(area):
                if count > _PLENTY and count > size + (limit := min(UNSIZED, room() // 2)):
                    raise too_much(limit)
                area = _moved(area, 2 * count)
            with memoryview(area) as view:
                step = os.readv(descriptor, [view[count:]])
            if step == 0:
                return memoryview(area)[:count]
            count += step
    except BaseException:
        with memoryview(area) as view:
            wipe(view[:count])
        raise


def _allocate(size: int) -> mmap:
    area = mmap(-1, -(-size // PAGE) * PAGE, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    area.madvise(MADV_DONTFORK)
    area.madvise(MADV_DONTDUMP)
    return area


def _moved(old: mmap, size: int) -> mmap:
    area = _allocate(size)
    with memoryview(old) as source, memoryview(area) as target:
        target[: len(source)] = source
        wipe(source)
    old.close()
    return area
