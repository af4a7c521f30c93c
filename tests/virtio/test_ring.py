"""Split virtqueues under polite drivers: every shape of chain, notifications both ways, batches, stopping."""

from __future__ import annotations

import os
from functools import partial
from mmap import mmap

import pytest

from pykrun.errors import VirtqueueError
from pykrun.virtio import GuestMemory, Region, Virtqueue
from pykrun.virtio.ring import BATCH
from tests.virtio.driver import DESCRIPTOR, INDIRECT, NEXT, WRITE, Driver, only, sizes, take


def listen(queue: Virtqueue) -> int:
    call = os.eventfd(0, os.EFD_NONBLOCK)
    queue.tell = partial(os.eventfd_write, call, 1)
    return call


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
