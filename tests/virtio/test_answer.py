"""`Virtqueue.answer`, for devices that finish each chain at once: it sees what `pop` sees, and gives all of it back."""

from __future__ import annotations

import random
from mmap import mmap

import pytest

from pykrun.errors import VirtqueueError
from pykrun.virtio import GuestMemory, Region, Virtqueue
from pykrun.virtio.ring import BATCH
from pykrun.virtio.walk import Views
from tests.virtio.driver import DESCRIPTOR, INDIRECT, NEXT, WRITE, Driver, take, take_by_answer

Contents = tuple[tuple[bytes, ...], tuple[int, ...]]


def answered(queue: Virtqueue, length: int = 0) -> list[Contents]:
    """What a pass hands to the handler: readable bytes and writable sizes of each chain."""
    seen: list[Contents] = []

    def handle(readable: Views, writable: Views) -> int:
        seen.append((tuple(map(bytes, readable)), tuple(map(len, writable))))
        return length

    queue.refresh()
    queue.answer(handle)
    return seen


@pytest.mark.parametrize("way", ["direct", "indirect"])
@pytest.mark.parametrize("start", [0, 0x1_0000_0000])
def test_request_and_reply(way: str, start: int) -> None:
    driver = Driver(16, start=start)
    queue = driver.queue()
    room = driver.room(32)
    head = getattr(driver, way)([driver.place(b"request"), driver.place(b"body"), room], 5)
    assert answered(queue) == []
    driver.offer(head)

    def handle(readable: Views, writable: Views) -> int:
        assert list(map(bytes, readable)) == [b"request", b"body"]
        writable[0][:5] = b"reply"
        return 5

    queue.refresh()
    queue.answer(handle)
    assert driver.finished() == [], "the index is published by notify"
    assert queue.notify() is False
    assert driver.finished() == [(5, 5)]
    assert driver.read(room[0], 5) == b"reply"
    queue.stop()
    driver.close()


def test_the_same_table_with_new_content_and_a_changed_one(driver: Driver) -> None:
    queue = driver.queue()
    request = driver.place(b"one")
    driver.indirect([request, driver.room(8)], 2)
    for content in (b"one", b"two"):
        driver.write(request[0], content)
        driver.offer(2)
        assert answered(queue) == [((content,), (8,))]
    driver.indirect([driver.place(b"longer"), driver.room(9)], 2)
    driver.offer(2)
    assert answered(queue) == [((b"longer",), (9,))]


def test_order_and_lengths_are_kept_and_indices_wrap(driver: Driver) -> None:
    queue = driver.queue(event_idx=True)
    for head in range(16):
        driver.indirect([driver.place(b"%d" % head), driver.room(8)], head)
    heads = [3, 1, 2, 15, 0]
    for _ in range(14_000):
        driver.offer(*heads)
        queue.refresh()
        queue.answer(lambda readable, writable: int(bytes(readable[0])))
        assert not queue.notify()
    assert driver.finished()[-5:] == [(head, head) for head in heads]
    assert driver.used_index == 70_000 & 0xFFFF == queue.position


def test_a_pass_is_bounded() -> None:
    driver = Driver(256)
    queue = driver.queue()
    for head in range(256):
        driver.direct([driver.room(8)], head)
    driver.offer(*range(256))
    passes = []
    while seen := len(answered(queue)):
        passes.append(seen)
        queue.notify()
    assert passes == [BATCH] * (256 // BATCH)
    queue.stop()
    driver.close()


def test_a_table_in_the_second_region_and_one_at_the_wrong_side_of_the_first() -> None:
    driver = Driver(16)
    mapping = mmap(-1, 1 << 21)
    inner = Region(0, 1 << 20, mmap(driver.fd, 1 << 20))
    memory = GuestMemory([Region(1 << 24, (1 << 21) - 4096, mapping, 4096), inner])
    queue = driver.queue(memory=memory)
    driver.offer(driver.indirect([driver.place(b"low"), (1 << 24, 8, True)]))
    assert answered(queue) == [((b"low",), (8,))]
    table = DESCRIPTOR.pack(1 << 24, 8, 0, 0)
    mapping[8192 : 8192 + len(table)] = table
    driver.describe(0, (1 << 24) + 4096, len(table), INDIRECT)
    driver.offer(0)
    assert answered(queue) == [((bytes(8),), ())]
    for wrong in ((1 << 24) - 4096, (1 << 24) + (1 << 21) - 4096 - 8):  # in the mapping, not in the region; half in it
        driver.describe(0, wrong, len(table), INDIRECT)
        driver.offer(0)
        with pytest.raises(VirtqueueError):
            answered(queue)
    queue.stop()
    memory.close()
    driver.close()


def test_what_was_finished_before_a_broken_chain_is_given_back(driver: Driver) -> None:
    queue = driver.queue()
    for head in range(3):
        driver.indirect([driver.place(b"x"), driver.room(8)], head)
    driver.indirect_table(DESCRIPTOR.pack(0x8000, 0, 0, 0), 1)
    driver.offer(0, 1, 2)
    with pytest.raises(VirtqueueError, match="zero"):
        answered(queue, 7)
    assert queue.position == 1, "the broken one was not taken"
    queue.notify()
    assert driver.finished() == [(0, 7)]


def test_the_table_is_copied_before_it_is_served(driver: Driver) -> None:
    """What was validated is what is used, whatever the guest writes meanwhile, and a cached table is never trusted by
    its address."""
    queue = driver.queue()
    place = driver.place(b"good")
    for head in range(2):
        driver.indirect([place, driver.room(4)], head)
    driver.offer(0, 1)

    def handle(readable: Views, writable: Views) -> int:
        driver.bytes[: 16 * driver.size] = b"\xff" * (16 * driver.size)
        assert [bytes(view) for view in readable] == [b"good"]
        assert [len(view) for view in writable] == [4]
        return 0

    queue.refresh()
    with pytest.raises(VirtqueueError):  # the second one's descriptor is not what it was
        queue.answer(handle)
    queue.notify()
    assert driver.finished() == [(0, 0)]


def test_a_handler_that_has_the_queue_stopped(driver: Driver) -> None:
    memory = driver.guest_memory()
    queue = driver.queue(memory=memory)
    for head in range(2):
        driver.indirect([driver.place(b"x"), driver.room(8)], head)
    driver.offer(0, 1)
    served = 0

    def handle(readable: Views, writable: Views) -> int:
        nonlocal served
        served += 1
        queue.stop()
        return 0

    queue.refresh()
    queue.answer(handle)
    assert served == 1
    assert driver.finished() == []
    memory.close()


def test_both_ways_take_the_same() -> None:
    """Random tables, mostly right, each taken by `pop` and by `answer`: the same sizes, or both refuse."""
    chance = random.Random(21)
    driver = Driver(16)
    memory = GuestMemory(
        [Region(0, 1 << 20, mmap(driver.fd, 1 << 20)), Region(1 << 32, 8192, mmap(-1, 12288), 4096)],
    )
    accepted = refused = 0
    for _ in range(5000):
        count = chance.randint(1, 6)
        readable = chance.randint(0, count)
        table = b""
        for number in range(count):
            flags = (NEXT if number + 1 < count else 0) | (WRITE if number >= readable else 0)
            following, length = number + 1, chance.choice((1, 16, 4096))
            address = chance.choice(
                (0x8000, 0x9000, (1 << 20) - 16, 1 << 32, (1 << 32) + 4096, chance.randrange(1 << 20))
            )
            if chance.random() < 0.03:
                flags, following, length = chance.randrange(8), chance.randrange(count + 1), chance.choice((0, 8))
            table += DESCRIPTOR.pack(address, length, flags, following)
        driver.write(0x4000, table)
        indirect = chance.random() < 0.7
        if indirect:
            driver.describe(0, 0x4000, len(table) - (chance.random() < 0.02), INDIRECT)
        else:
            driver.write(driver.table, table)
        outcomes: list[object] = []
        for way in (take, take_by_answer):
            driver.index = 0
            driver.set_avail_index(0)
            queue = driver.queue(memory=memory, indirect=chance.random() < 0.5 or indirect)
            driver.offer(0)
            try:
                taken = way(queue)
            except VirtqueueError:
                outcomes.append(None)
            else:
                if not isinstance(taken, tuple):
                    assert taken is not None
                    taken = ([len(view) for view in taken.readable], [len(view) for view in taken.writable])
                outcomes.append(taken)
            queue.stop()
        assert outcomes[0] == outcomes[1], table.hex()
        accepted += outcomes[0] is not None
        refused += outcomes[0] is None
    assert accepted > 2000
    assert refused > 500
    memory.close()
    driver.close()
