"""Split virtqueues: polite drivers, then every way of security.md 17 to 22 in which a driver can be hostile."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from functools import partial
from mmap import mmap

import pytest

from pykrun.errors import VirtqueueError
from pykrun.virtio import Chain, GuestMemory, Region, Virtqueue
from pykrun.virtio.ring import BATCH
from pykrun.virtio.walk import ChainWalk
from tests.virtio.driver import DESCRIPTOR, INDIRECT, NEXT, WRITE, Driver


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver(16)
    yield driver
    driver.close()


def take(queue: Virtqueue) -> Chain | None:
    queue.refresh()
    return queue.pop()


def listen(queue: Virtqueue) -> int:
    call = os.eventfd(0, os.EFD_NONBLOCK)
    queue.tell = partial(os.eventfd_write, call, 1)
    return call


def sizes(chain: Chain) -> tuple[list[int], list[int]]:
    return [len(view) for view in chain.readable], [len(view) for view in chain.writable]


def only(queue: Virtqueue) -> Chain:
    chain = take(queue)
    assert chain is not None
    return chain


# Polite drivers


@pytest.mark.parametrize("way", ["direct", "indirect"])
@pytest.mark.parametrize("start", [0, 0x1_0000_0000])
def test_request_and_reply(way: str, start: int) -> None:
    driver = Driver(16, start=start)
    queue = driver.queue()
    room = driver.room(32)
    head = getattr(driver, way)([driver.place(b"request"), driver.place(b"body"), room], 5)
    assert take(queue) is None
    driver.offer(head)
    chain = only(queue)
    assert [bytes(view) for view in chain.readable] == [b"request", b"body"]
    assert sizes(chain)[1] == [32]
    chain.writable[0][:5] = b"reply"
    queue.push(chain, 5)
    assert driver.finished() == [], "the index is published by notify"
    assert queue.notify() is False
    assert driver.finished() == [(5, 5)]
    assert driver.read(room[0], 5) == b"reply"
    queue.stop()
    driver.close()


@pytest.mark.parametrize("way", ["direct", "indirect"])
def test_neighbours_are_joined_but_not_across_directions(driver: Driver, way: str) -> None:
    queue = driver.queue()
    place = driver.allocate(4096)
    buffers = [
        (place, 10, False),
        (place + 10, 20, False),
        (place + 100, 8, False),
        (place + 108, 8, True),
        (place + 116, 4, True),
    ]
    driver.offer(getattr(driver, way)(buffers))
    assert sizes(only(queue)) == ([30, 8], [12])


def test_a_table_seen_before_gives_the_same_buffers_with_new_content(driver: Driver) -> None:
    queue = driver.queue()
    request, room = driver.place(b"one"), driver.room(8)
    driver.indirect([request, room], 2)
    for content in (b"one", b"two", b"six"):
        driver.write(request[0], content)
        driver.offer(2)
        chain = only(queue)
        assert (bytes(chain.readable[0]), sizes(chain)[1]) == (content, [8])
        queue.push(chain, 0)
        queue.notify()


def test_a_table_that_changed_is_seen_as_it_is_now(driver: Driver) -> None:
    queue = driver.queue()
    driver.indirect([driver.place(b"x" * 5), driver.room(8)], 2)
    driver.offer(2)
    queue.push(only(queue), 0)
    queue.notify()
    driver.indirect([driver.place(b"y" * 6), driver.room(9)], 2)
    driver.offer(2)
    chain = only(queue)
    assert (bytes(chain.readable[0]), sizes(chain)) == (b"yyyyyy", ([6], [9]))


def test_an_indirect_table_in_any_order_follows_next(driver: Driver) -> None:
    queue = driver.queue()
    first, second, room = driver.place(b"first"), driver.place(b"second"), driver.room(4)
    table = DESCRIPTOR.pack(*first[:2], NEXT, 2)
    table += DESCRIPTOR.pack(*room[:2], WRITE, 77)
    table += DESCRIPTOR.pack(*second[:2], NEXT, 1)
    table += DESCRIPTOR.pack(0xBAD, 1, 0, 0)  # not part of the chain: never looked at
    driver.offer(driver.indirect_table(table))
    chain = only(queue)
    assert [bytes(view) for view in chain.readable] == [b"first", b"second"]
    assert sizes(chain)[1] == [4]


def test_a_chain_may_end_before_its_table(driver: Driver) -> None:
    """Also when the rest is made to look like its continuation."""
    queue = driver.queue()
    table = DESCRIPTOR.pack(*driver.place(b"first")[:2], NEXT, 1)
    table += DESCRIPTOR.pack(*driver.place(b"last")[:2], 0, 0)
    table += DESCRIPTOR.pack(*driver.place(b"beyond")[:2], NEXT, 2)
    driver.offer(driver.indirect_table(table))
    assert [bytes(view) for view in only(queue).readable] == [b"first", b"last"]


def test_direct_descriptors_may_end_in_an_indirect_one(driver: Driver) -> None:
    queue = driver.queue()
    driver.indirect([driver.place(b"table"), driver.room(4)], 3)
    driver.describe(0, *driver.place(b"direct")[:2], NEXT, 3)
    driver.offer(0)
    chain = only(queue)
    assert [bytes(view) for view in chain.readable] == [b"direct", b"table"]


def test_write_flag_of_an_indirect_descriptor_is_ignored(driver: Driver) -> None:
    queue = driver.queue()
    table = DESCRIPTOR.pack(*driver.place(b"abc")[:2], 0, 0)
    driver.offer(driver.indirect_table(table, flags=INDIRECT | WRITE))
    assert sizes(only(queue)) == ([3], [])


def test_a_driver_that_wants_no_calls_gets_none(driver: Driver) -> None:
    queue = driver.queue()
    call = listen(queue)
    driver.direct([driver.room(8)])
    for flags, calls in ((1, 0), (0, 1), (1, 1)):
        driver.set_avail_flags(flags)
        driver.offer(0)
        queue.push(only(queue), 0)
        queue.notify()
        assert queue.calls == calls
    assert os.eventfd_read(call) == 1
    os.close(call)


def test_a_batch_is_one_call(driver: Driver) -> None:
    queue = driver.queue()
    call = listen(queue)
    for head in range(8):
        driver.direct([driver.room(8)], head)
    driver.offer(*range(8))
    queue.refresh()
    while (chain := queue.pop()) is not None:
        queue.push(chain, 1)
    queue.notify()
    assert queue.calls == 1
    assert [head for head, _ in driver.finished()] == list(range(8))
    os.close(call)


def test_event_idx_calls_when_the_asked_index_is_passed(driver: Driver) -> None:
    queue = driver.queue(event_idx=True, position=65533)
    driver.index = 65533
    call = listen(queue)
    driver.direct([driver.room(8)])
    calls = []
    driver.set_used_event(2)  # tell me about the third
    for _ in range(5):
        driver.offer(0)
        queue.push(only(queue), 0)
        queue.notify()
        calls.append(queue.calls)
    assert calls == [0, 0, 1, 1, 1]
    os.close(call)


def test_event_idx_asks_for_a_kick_only_when_empty(driver: Driver) -> None:
    queue = driver.queue(event_idx=True)
    for head in range(3):
        driver.direct([driver.room(8)], head)
    driver.offer(0, 1, 2)
    queue.push(only(queue), 0)
    queue.notify()
    assert driver.avail_event == 0
    while (chain := queue.pop()) is not None:
        queue.push(chain, 0)
    assert queue.notify() is False
    assert driver.avail_event == 3


def test_what_was_added_before_the_driver_could_see_the_wish_is_found(driver: Driver) -> None:
    queue = driver.queue(event_idx=True)
    driver.direct([driver.room(8)], 0)
    driver.direct([driver.room(8)], 1)
    driver.offer(0)
    chain = only(queue)
    driver.offer(1)  # no kick: the driver has seen an old wish
    queue.push(chain, 0)
    assert queue.notify() is True
    assert queue.pop() is not None


def test_indices_wrap(driver: Driver) -> None:
    queue = driver.queue(event_idx=True)
    driver.direct([driver.room(8)])
    for _ in range(70_000):
        driver.offer(0)
        queue.refresh()
        chain = queue.pop()
        assert chain is not None
        queue.push(chain, 3)
        assert not queue.notify()
    assert driver.used_index == 70_000 & 0xFFFF == queue.position


def test_a_pass_takes_a_bounded_number_of_chains() -> None:
    driver = Driver(256)
    queue = driver.queue()
    for head in range(256):
        driver.direct([driver.room(8)], head)
    driver.offer(*range(256))
    passes = []
    more = queue.refresh()
    while more:
        taken = 0
        while (chain := queue.pop()) is not None:
            queue.push(chain, 0)
            taken += 1
        passes.append(taken)
        more = queue.notify()
    assert passes == [BATCH] * (256 // BATCH)
    queue.stop()
    driver.close()


def test_unpop_gives_the_chain_again(driver: Driver) -> None:
    queue = driver.queue()
    driver.direct([driver.room(8)], 0)
    driver.direct([driver.room(9)], 1)
    driver.offer(0, 1)
    first = only(queue)
    second = queue.pop()
    assert second is not None
    queue.unpop(second)
    assert queue.position == 1
    again = queue.pop()
    assert again is not None
    assert sizes(again) == ([], [9])
    queue.push(again, 0)
    queue.push(first, 0)
    queue.notify()
    assert driver.finished() == [(1, 0), (0, 0)]


def test_buffers_lie_in_every_region() -> None:
    driver = Driver(16)
    other = mmap(-1, 8192)
    memory = GuestMemory([Region(0, 1 << 20, mmap(driver.fd, 1 << 20)), Region(1 << 32, 4096, other, 4096)])
    queue = driver.queue(memory=memory)
    driver.offer(driver.indirect([driver.place(b"here"), (1 << 32, 4096, True)]))
    chain = only(queue)
    assert sizes(chain) == ([4], [4096])
    chain.writable[0][:1] = b"!"
    assert other[4096:4097] == b"!"
    driver.offer(driver.direct([(1 << 32, 16, False)], 1))
    assert bytes(only(queue).readable[0]) == b"!" + bytes(15)
    queue.stop()
    del chain
    memory.close()
    assert other.closed
    driver.close()


def test_neighbours_in_two_regions_are_not_joined() -> None:
    driver = Driver(16)
    memory = GuestMemory([Region(0, 1 << 20, mmap(driver.fd, 1 << 20)), Region(1 << 20, 4096, mmap(-1, 4096))])
    queue = driver.queue(memory=memory)
    edge = 1 << 20
    driver.offer(driver.indirect([(edge - 64, 64, True), (edge, 64, True)]))
    assert sizes(only(queue)) == ([], [64, 64])
    driver.offer(driver.indirect([(edge - 64, 65, True)], 1))
    with pytest.raises(VirtqueueError):
        take(queue)
    queue.stop()
    memory.close()
    driver.close()


def test_the_second_region_does_not_begin_where_its_mapping_does() -> None:
    driver = Driver(16)
    memory = GuestMemory([Region(0, 1 << 20, mmap(driver.fd, 1 << 20))])
    mapping = mmap(-1, 1 << 21)
    largest = GuestMemory([Region(1 << 24, (1 << 21) - 4096, mapping, 4096), *memory.regions])
    queue = driver.queue(memory=largest)
    mapping[4096:4104] = b"at start"
    table = DESCRIPTOR.pack(1 << 24, 8, NEXT, 1) + DESCRIPTOR.pack((1 << 24) + 100, 8, WRITE, 0)
    mapping[8192 : 8192 + len(table)] = table
    driver.describe(0, (1 << 24) + 4096, len(table), INDIRECT)
    driver.offer(0)
    chain = only(queue)
    assert bytes(chain.readable[0]) == b"at start"
    driver.describe(1, (1 << 24) - 4096, len(table), INDIRECT)  # in the mapping, not in the region
    driver.offer(1)
    with pytest.raises(VirtqueueError):
        take(queue)
    queue.stop()
    del chain
    largest.close()
    driver.close()


# Stopping


def test_stop_unmaps_whatever_a_device_still_holds(driver: Driver) -> None:
    memory = driver.guest_memory()
    mapping = memory.regions[0].mapping
    queue = driver.queue(memory=memory)
    for head in range(3):
        driver.indirect([driver.place(b"x"), driver.room(8)], head)
    driver.direct([driver.room(8)], 3)
    driver.offer(0, 1, 2, 3)
    held = [only(queue), only(queue), only(queue), only(queue)]
    views = [view for chain in held for view in chain.readable + chain.writable]
    queue.push(held[0], 0)
    queue.stop()
    memory.close()
    assert mapping.closed
    for view in views:
        with pytest.raises(ValueError, match="released"):
            bytes(view)
    queue.push(held[1], 0)  # too late, and harmless
    assert queue.pop() is None


# Hostile drivers

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
def test_hostile_indirect_table(driver: Driver, table: bytes) -> None:
    queue = driver.queue()
    driver.offer(driver.indirect_table(table))
    with pytest.raises(VirtqueueError):
        take(queue)


DESCRIPTORS_IN_16 = {
    name: table
    for name, table in HOSTILE_TABLES.items()
    if table
    and len(table) % 16 == 0
    and "nested" not in name
    and name not in ("next out of the table", "longer than the ring")
}


@pytest.mark.parametrize("table", DESCRIPTORS_IN_16.values(), ids=DESCRIPTORS_IN_16.keys())
def test_hostile_direct_chain(driver: Driver, table: bytes) -> None:
    queue = driver.queue()
    driver.bytes[driver.table : driver.table + len(table)] = table
    driver.offer(0)
    with pytest.raises(VirtqueueError):
        take(queue)


def test_next_out_of_the_ring(driver: Driver) -> None:
    queue = driver.queue()
    driver.describe(0, 0x8000, 16, NEXT, 16)
    driver.offer(0)
    with pytest.raises(VirtqueueError, match="16"):
        take(queue)


def test_indirect_that_was_not_negotiated(driver: Driver) -> None:
    queue = driver.queue(indirect=False)
    driver.offer(driver.indirect([driver.place(b"x")]))
    with pytest.raises(VirtqueueError, match="negotiated"):
        take(queue)


def test_indirect_and_next(driver: Driver) -> None:
    queue = driver.queue()
    table = DESCRIPTOR.pack(0x8000, 16, 0, 0)
    driver.offer(driver.indirect_table(table, flags=INDIRECT | NEXT))
    with pytest.raises(VirtqueueError, match="next"):
        take(queue)


@pytest.mark.parametrize(
    ("address", "length"),
    [(1 << 20, 16), ((1 << 20) - 16, 32), (2**64 - 16, 32), (2**64 - 16, 16), (0, 2**32 - 16), (0x8000, 16 * 17)],
)
def test_indirect_table_outside_memory_or_too_large(driver: Driver, address: int, length: int) -> None:
    queue = driver.queue()
    driver.describe(0, address, length, INDIRECT)
    driver.offer(0)
    with pytest.raises(VirtqueueError):
        take(queue)


def test_odd_table_in_another_region() -> None:
    driver = Driver(16)
    memory = GuestMemory([Region(1 << 32, 1 << 21, mmap(-1, 1 << 21)), Region(0, 1 << 20, mmap(driver.fd, 1 << 20))])
    queue = driver.queue(memory=memory)
    driver.offer(driver.indirect_table(HOSTILE_TABLES["not a multiple of 16"]))
    with pytest.raises(VirtqueueError, match="24 bytes"):
        take(queue)
    queue.stop()
    memory.close()
    driver.close()


def test_huge_table_is_not_copied() -> None:
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
        take(queue)
    queue.stop()
    memory.close()
    driver.close()


@pytest.mark.parametrize("way", ["direct", "indirect", "indirect in the other region"])
def test_sum_of_4_gib(way: str) -> None:
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
        take(queue)
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


def test_head_out_of_range(driver: Driver) -> None:
    queue = driver.queue()
    driver.offer(16)
    with pytest.raises(VirtqueueError, match="16"):
        take(queue)


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
