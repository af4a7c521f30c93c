"""Numbers are unique whatever layers and threads ask."""

from __future__ import annotations

import threading

from pykrun.fs import InodeAllocator


def test_starts_after_the_root() -> None:
    allocator = InodeAllocator()
    assert [allocator.allocate() for _ in range(4)] == [2, 3, 4, 5]


def test_threads_never_get_the_same_number() -> None:
    allocator = InodeAllocator()
    taken: list[list[int]] = [[] for _ in range(8)]

    def take(mine: list[int]) -> None:
        mine.extend(allocator.allocate() for _ in range(5000))

    threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [number for mine in taken for number in mine]
    assert sorted(numbers) == list(range(2, 2 + 40000))
