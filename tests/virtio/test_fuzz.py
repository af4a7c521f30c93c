"""Random rings, descriptors and indirect tables: whatever a guest writes is served or is a VirtqueueError."""

from __future__ import annotations

import random
from mmap import mmap

import pytest

from pykrun.errors import VirtqueueError
from pykrun.virtio import Chain, GuestMemory, Region, Virtqueue
from pykrun.virtio.walk import Views
from tests.virtio.driver import DESCRIPTOR, INDIRECT, NEXT, WRITE, Driver
from tests.virtio.fuzzing import BLOCK, blocks, resident, time_limit

SHORT = 20_000
FULL = 1_000_000
GROWTH = 8 << 20
ROUNDS = 6

MEMORY = 1 << 16
SECOND = 1 << 32
EDGES = (0, 1, 15, 16, 4096, MEMORY - 16, MEMORY - 1, MEMORY, SECOND, SECOND + 4096, SECOND + 8191, 2**63, 2**64 - 1)
LENGTHS = (0, 1, 15, 16, 17, 32, 100, 4096, MEMORY, 2**31, 2**32 - 16, 2**32 - 1)


class Guest:
    """One memory, reused; each input is a new queue over other bytes."""

    def __init__(self) -> None:
        self.driver = Driver(8, MEMORY)
        first = Region(0, MEMORY, mmap(self.driver.fd, MEMORY))
        self.memory = GuestMemory([first, Region(SECOND, 8192, mmap(-1, 12288), 4096)])
        self.served = self.refused = 0

    def close(self) -> None:
        self.memory.close()
        self.driver.close()

    def run(self, chance: random.Random) -> None:
        driver = self.driver
        driver.index = position = chance.choice((0, 0, 65530, chance.randrange(65536)))
        driver.set_avail_index(position)
        indirect = chance.random() < 0.9
        queue = driver.queue(memory=self.memory, position=position, event_idx=chance.random() < 0.5, indirect=indirect)
        held: list[Chain] = []
        at_once = chance.random() < 0.5  # a device takes its chains in one way or the other
        try:
            for _ in range(chance.randrange(1, ROUNDS)):
                self._write(chance)
                if at_once:
                    self._answer(chance, queue)
                else:
                    self._serve(chance, queue, held)
        except VirtqueueError:
            self.refused += 1
        queue.stop()

    def _serve(self, chance: random.Random, queue: Virtqueue, held: list[Chain]) -> None:
        queue.refresh()
        taken = 0
        while (chain := queue.pop()) is not None:
            taken += 1
            assert taken <= queue.size
            self._use(queue, chain.readable, chain.writable)
            if chance.random() < 0.1:
                held.append(chain)
            elif chance.random() < 0.05:
                queue.unpop(chain)
                break
            else:
                queue.push(chain, chance.randrange(1 << 16))
        if held and chance.random() < 0.5:
            queue.push(held.pop(chance.randrange(len(held))), 0)
        queue.notify()

    def _answer(self, chance: random.Random, queue: Virtqueue) -> None:
        taken = 0

        def handle(readable: Views, writable: Views) -> int:
            nonlocal taken
            taken += 1
            assert taken <= queue.size
            self._use(queue, readable, writable)
            return chance.randrange(1 << 16)

        queue.refresh()
        queue.answer(handle)
        queue.notify()

    def _use(self, queue: Virtqueue, readable: Views, writable: Views) -> None:
        self.served += 1
        views = readable + writable
        assert views
        assert all(0 < len(view) <= MEMORY for view in views)
        assert len(views) <= queue.size
        for view in views:
            bytes(view[:8])
        for view in writable:
            view[-1:] = b"!"

    def _write(self, chance: random.Random) -> None:
        driver = self.driver
        driver.free = driver.allocate(0, 4096) + chance.randrange(64) if driver.free > MEMORY // 2 else driver.free
        for _ in range(chance.randrange(1, 4)):
            self._chain(chance)
        kind = chance.random()
        if kind < 0.04:
            driver.set_avail_index(driver.index + chance.randrange(65536))
        elif kind < 0.06:
            place = chance.randrange(driver.free)
            driver.bytes[place : place + 8] = chance.randbytes(8)
        elif kind < 0.3:
            driver.set_used_event(chance.randrange(65536))

    def _chain(self, chance: random.Random) -> None:
        driver = self.driver
        head = chance.randrange(driver.size) if chance.random() < 0.98 else chance.randrange(65536)
        count = chance.choice((1, 1, 2, 4, 4, 7, 8, 9))
        table = self._table(chance, count)
        if chance.random() < 0.6:
            if chance.random() < 0.03:
                table = table[: chance.randrange(len(table) + 1)]
            place = 0x4000 + 256 * chance.randrange(64)
            driver.write(place, table)
            flags = INDIRECT if chance.random() < 0.97 else chance.randrange(16)
            address, length = place, len(table)
            if chance.random() < 0.03:
                address, length = chance.choice(EDGES), chance.choice(LENGTHS)
            driver.describe(head % driver.size, address, length, flags, chance.randrange(4))
        else:
            for number in range(min(count, driver.size)):
                slot = (head + number) % driver.size
                address, length, flags, following = DESCRIPTOR.unpack_from(table, 16 * number)
                if flags & NEXT and chance.random() < 0.97:
                    following = (head + number + 1) % driver.size
                driver.describe(slot, address, length, flags, following)
        driver.offer(head)

    def _table(self, chance: random.Random, count: int) -> bytes:
        readable = chance.randrange(count + 1)
        table = b""
        address = 0x8000
        for number in range(count):
            flags = (NEXT if number + 1 < count else 0) | (WRITE if number >= readable else 0)
            following, length = number + 1, chance.choice((1, 16, 40, 128, 4096))
            if chance.random() < 0.5:
                address = chance.randrange(0x8000, MEMORY - 4096)
            kind = chance.random()
            if kind < 0.02:
                flags = chance.randrange(16)
            elif kind < 0.04:
                following = chance.randrange(65536) if chance.random() < 0.5 else chance.randrange(count)
            elif kind < 0.06:
                length = chance.choice(LENGTHS)
            elif kind < 0.08:
                address = chance.choice(EDGES)
            elif kind < 0.12:
                address = SECOND + chance.randrange(8192 - 128)
                length = min(length, 128)
            table += DESCRIPTOR.pack(address, length, flags, following)
            address = (address + length) % 2**64
        return table


def fuzz(inputs: int, seconds: int) -> None:
    guest = Guest()
    size = 0
    with time_limit(seconds):
        for number, (name, chance) in enumerate(blocks(inputs)):
            for _ in range(BLOCK):
                try:
                    guest.run(chance)
                except Exception as error:
                    raise AssertionError(f"block {name}: {error!r}") from error
            if number == 5:
                size = resident()
    assert resident() - size < GROWTH
    assert guest.served > inputs // 2, "most of what it makes is to be right, or it tests little"
    assert guest.refused > inputs // 20
    guest.close()


def test_fuzz_short() -> None:
    fuzz(SHORT, 120)


@pytest.mark.full
def test_fuzz_a_million() -> None:
    fuzz(FULL, 3600)
