"""Every way of security.md 17 to 22 in which a driver can be hostile: the queue stops with a VirtqueueError."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from mmap import mmap

import pytest

from pykrun.errors import VirtqueueError
from pykrun.virtio import GuestMemory, Region, Virtqueue
from pykrun.virtio.walk import ChainWalk
from tests.virtio.driver import DESCRIPTOR, INDIRECT, NEXT, WRITE, Driver, only, sizes, take, take_by_answer

Take = Callable[[Virtqueue], object]


@pytest.fixture(params=[take, take_by_answer], ids=["pop", "answer"])
def taking(request: pytest.FixtureRequest) -> Take:
    """Both ways in which chains are taken."""
    way: Take = request.param
    return way


HOSTILE_TABLES: dict[str, bytes] = {
    "empty": b"",
    "not a multiple of 16": DESCRIPTOR.pack(0x8000, 16, 0, 0) + bytes(8),
    "less than one": b"\1" * 15,
    "nested": DESCRIPTOR.pack(0x1000, 16, INDIRECT, 0),
    "nested later": DESCRIPTOR.pack(0x8000, 16, NEXT, 1) + DESCRIPTOR.pack(0x8000, 16, INDIRECT, 0),
    "next out of the table": DESCRIPTOR.pack(0x8000, 16, NEXT, 1),
    "next far out": DESCRIPTOR.pack(0x8000, 16, NEXT, 65535) + bytes(16),
    "loop on itself": DESCRIPTOR.pack(0x8000, 16, NEXT, 0),
    "loop of two": DESCRIPTOR.pack(0x8000, 16, NEXT, 1) + DESCRIPTOR.pack(0x9000, 16, NEXT, 0),
    "zero length": DESCRIPTOR.pack(0x8000, 0, 0, 0),
    "zero length to write": DESCRIPTOR.pack(0x8000, 0, WRITE, 0),
    "zero length between neighbours": DESCRIPTOR.pack(0x8000, 16, NEXT, 1)
    + DESCRIPTOR.pack(0x8010, 0, NEXT, 2)
    + DESCRIPTOR.pack(0x8010, 16, 0, 0),
    "readable after writable": DESCRIPTOR.pack(0x8000, 16, NEXT | WRITE, 1) + DESCRIPTOR.pack(0x9000, 16, 0, 0),
    "readable after writable, neighbours": DESCRIPTOR.pack(0x8000, 16, NEXT | WRITE, 1)
    + DESCRIPTOR.pack(0x8010, 16, 0, 0),
    "address beyond memory": DESCRIPTOR.pack(1 << 20, 16, 0, 0),
    "address before memory": DESCRIPTOR.pack(2**64 - 16, 16, 0, 0),
    "end beyond memory": DESCRIPTOR.pack((1 << 20) - 8, 16, WRITE, 0),
    "joined end beyond memory": DESCRIPTOR.pack((1 << 20) - 32, 16, NEXT, 1)
    + DESCRIPTOR.pack((1 << 20) - 16, 32, NEXT, 2)
    + DESCRIPTOR.pack(0x8000, 16, 0, 0),
    "overflow": DESCRIPTOR.pack(2**64 - 8, 16, 0, 0),
    "overflow to a good address": DESCRIPTOR.pack(2**64 - 1, 0x9001, 0, 0),
    "longer than the ring": b"".join(
        DESCRIPTOR.pack(0x8000 + 32 * i, 16, NEXT if i < 16 else 0, i + 1) for i in range(17)
    ),
}


@pytest.mark.parametrize("table", HOSTILE_TABLES.values(), ids=HOSTILE_TABLES.keys())
def test_hostile_indirect_table(driver: Driver, table: bytes, taking: Take) -> None:
    queue = driver.queue()
    driver.offer(driver.indirect_table(table))
    with pytest.raises(VirtqueueError):
        taking(queue)


DESCRIPTORS_IN_16 = {
    name: table
    for name, table in HOSTILE_TABLES.items()
    if table
    and len(table) % 16 == 0
    and "nested" not in name
    and name not in ("next out of the table", "longer than the ring")
}


@pytest.mark.parametrize("table", DESCRIPTORS_IN_16.values(), ids=DESCRIPTORS_IN_16.keys())
def test_hostile_direct_chain(driver: Driver, table: bytes, taking: Take) -> None:
    queue = driver.queue()
    driver.bytes[driver.table : driver.table + len(table)] = table
    driver.offer(0)
    with pytest.raises(VirtqueueError):
        taking(queue)


def test_next_out_of_the_ring(driver: Driver, taking: Take) -> None:
    queue = driver.queue()
    driver.describe(0, 0x8000, 16, NEXT, 16)
    driver.offer(0)
    with pytest.raises(VirtqueueError, match="16"):
        taking(queue)


def test_indirect_that_was_not_negotiated(driver: Driver, taking: Take) -> None:
    queue = driver.queue(indirect=False)
    driver.offer(driver.indirect([driver.place(b"x")]))
    with pytest.raises(VirtqueueError, match="negotiated"):
        taking(queue)


def test_indirect_and_next(driver: Driver, taking: Take) -> None:
    queue = driver.queue()
    table = DESCRIPTOR.pack(0x8000, 16, 0, 0)
    driver.offer(driver.indirect_table(table, flags=INDIRECT | NEXT))
    with pytest.raises(VirtqueueError, match="next"):
        taking(queue)


@pytest.mark.parametrize(
    ("address", "length"),
    [(1 << 20, 16), ((1 << 20) - 16, 32), (2**64 - 16, 32), (2**64 - 16, 16), (0, 2**32 - 16), (0x8000, 16 * 17)],
)
def test_indirect_table_outside_memory_or_too_large(driver: Driver, address: int, length: int, taking: Take) -> None:
    queue = driver.queue()
    driver.describe(0, address, length, INDIRECT)
    driver.offer(0)
    with pytest.raises(VirtqueueError):
        taking(queue)


def test_odd_table_in_another_region(taking: Take) -> None:
    driver = Driver(16)
    memory = GuestMemory([Region(1 << 32, 1 << 21, mmap(-1, 1 << 21)), Region(0, 1 << 20, mmap(driver.fd, 1 << 20))])
    queue = driver.queue(memory=memory)
    driver.offer(driver.indirect_table(HOSTILE_TABLES["not a multiple of 16"]))
    with pytest.raises(VirtqueueError, match="24 bytes"):
        taking(queue)
    queue.stop()
    memory.close()
    driver.close()


def test_huge_table_is_not_copied(taking: Take) -> None:
    """A table of 4 GiB inside a guest's memory costs nothing: its length is looked at first."""
    fd = os.memfd_create("huge")
    os.ftruncate(fd, 5 << 30)
    driver = Driver(16)
    memory = GuestMemory([Region(1 << 32, 5 << 30, mmap(fd, 5 << 30)), Region(0, 1 << 20, mmap(driver.fd, 1 << 20))])
    os.close(fd)
    queue = driver.queue(memory=memory)
    driver.describe(0, 1 << 32, 2**32 - 16, INDIRECT)
    driver.offer(0)
    with pytest.raises(VirtqueueError, match="table"):
        taking(queue)
    queue.stop()
    memory.close()
    driver.close()


@pytest.mark.parametrize("way", ["direct", "indirect", "indirect in the other region"])
def test_sum_of_4_gib(way: str, taking: Take) -> None:
    fd = os.memfd_create("huge")
    os.ftruncate(fd, 3 << 30)
    driver = Driver(16)
    mapping = mmap(fd, 3 << 30)
    memory = GuestMemory([Region(1 << 32, 3 << 30, mapping), Region(0, 1 << 20, mmap(driver.fd, 1 << 20))])
    os.close(fd)
    queue = driver.queue(memory=memory)
    half = (1 << 32, 1 << 31, True)
    if way == "direct":
        driver.offer(driver.direct([half, half]))
    elif way == "indirect":
        mapping[:32] = DESCRIPTOR.pack(*half[:2], NEXT | WRITE, 1) + DESCRIPTOR.pack(*half[:2], WRITE, 0)
        driver.describe(0, 1 << 32, 32, INDIRECT)
        driver.offer(0)
    else:
        driver.offer(driver.indirect([half, half]))
    with pytest.raises(VirtqueueError, match="4 GiB"):
        taking(queue)
    queue.stop()
    memory.close()
    driver.close()


def test_available_index_ahead_by_more_than_the_ring(driver: Driver) -> None:
    queue = driver.queue()
    driver.set_avail_index(17)
    with pytest.raises(VirtqueueError, match="ahead"):
        queue.refresh()


def test_available_index_going_back(driver: Driver) -> None:
    queue = driver.queue(position=5)
    driver.set_avail_index(4)
    with pytest.raises(VirtqueueError, match="ahead"):
        queue.refresh()


def test_available_index_is_checked_after_a_batch_too(driver: Driver) -> None:
    queue = driver.queue()
    driver.direct([driver.room(8)])
    driver.offer(0)
    queue.push(only(queue), 0)
    driver.set_avail_index(500)
    with pytest.raises(VirtqueueError, match="ahead"):
        queue.notify()


def test_head_out_of_range(driver: Driver, taking: Take) -> None:
    queue = driver.queue()
    driver.offer(16)
    with pytest.raises(VirtqueueError, match="16"):
        taking(queue)


def test_head_in_flight_made_available_again(driver: Driver) -> None:
    queue = driver.queue()
    driver.offer(driver.direct([driver.room(8)], 7), 7)
    only(queue)
    with pytest.raises(VirtqueueError, match="twice"):
        queue.pop()


@pytest.mark.parametrize("size", [0, 3, 12, 65536, -1])
def test_queue_size(driver: Driver, size: int) -> None:
    memory = driver.guest_memory()
    with pytest.raises(VirtqueueError):
        Virtqueue(0, size, memory, memory.slice(0, 64), memory.slice(0, 64), memory.slice(0, 64))


def test_chain_of_the_whole_ring_is_fine(driver: Driver) -> None:
    queue = driver.queue()
    driver.offer(driver.direct([(0x8000 + 64 * number, 16, False) for number in range(16)]))
    assert sizes(only(queue))[0] == [16] * 16


def test_a_descriptor_is_read_once(driver: Driver) -> None:
    """What was validated is what is used, whatever the guest writes afterwards."""
    queue = driver.queue()
    place = driver.place(b"good")
    driver.direct([place], 0)
    driver.indirect([place, driver.room(4)], 1)
    driver.offer(0, 1)
    chains = [only(queue), only(queue)]
    driver.bytes[: 16 * driver.size] = b"\xff" * (16 * driver.size)
    assert [bytes(chain.readable[0]) for chain in chains] == [b"good", b"good"]


def test_an_interrupted_call_is_forgiven(driver: Driver) -> None:
    """A full eventfd, or a reader that is gone, does not hold or end the device."""
    queue = driver.queue()
    driver.direct([driver.room(8)])
    full = os.eventfd(0, os.EFD_NONBLOCK)
    os.eventfd_write(full, 2**64 - 2)
    read_end, write_end = os.pipe()
    os.close(read_end)
    for fd in (full, write_end):
        queue.tell = partial(os.write, fd, bytes(7) + b"\1")
        driver.offer(0)
        queue.push(only(queue), 0)
        queue.notify()
        os.close(fd)


def test_the_fast_parser_and_the_careful_walk_agree() -> None:
    """Random tables, mostly of Linux's shape: both give the same bytes, or the fast one leaves it to the other."""
    chance = random.Random(20)
    driver = Driver(16)
    memory = driver.guest_memory()
    queue = driver.queue(memory=memory)
    driver.bytes[4096:] = chance.randbytes((1 << 20) - 4096)
    accepted = 0
    for _ in range(20_000):
        count = chance.randint(1, 6)
        readable = chance.randint(0, count)
        address = chance.randrange(0, 1 << 20)
        table = b""
        for number in range(count):
            length = chance.choice((1, 16, 4096))
            if chance.random() < 0.4:
                address = chance.randrange(0, (1 << 20) + 4096)
            flags = (NEXT if number + 1 < count else 0) | (WRITE if number >= readable else 0)
            following = number + 1
            if chance.random() < 0.03:
                flags, following = chance.randrange(8), chance.randrange(count + 1)
            if chance.random() < 0.02:
                length = 0
            table += DESCRIPTOR.pack(address, length, flags, following)
            address += length
        fast = queue._parse_ordered(table)
        try:
            careful = ChainWalk(memory, driver.size).indirect(table)
        except VirtqueueError:
            assert fast is None
            continue
        if fast is not None:
            accepted += 1
            places = [[(view.nbytes, bytes(view)) for view in group] for group in careful]
            assert places == [[(view.nbytes, bytes(view)) for view in group] for group in fast]
    assert accepted > 2000
    queue.stop()
    driver.close()
