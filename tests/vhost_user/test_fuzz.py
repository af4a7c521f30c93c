"""Random streams of vhost-user messages: any order, any size, any descriptors, with kicks in between."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from pykrun.errors import PeerError
from pykrun.loop import Loop
from pykrun.vhost_user import messages as wire
from pykrun.virtio import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Device
from pykrun.virtio.block import BlockDevice
from pykrun.virtio.console import ConsoleDevice, ConsolePort
from pykrun.virtio.vsock import VsockDevice
from tests.vhost_user.devices import Echo
from tests.vhost_user.frontend import USER, FrontEnd, mapped_guests, open_descriptors, regions, state, u64
from tests.virtio.driver import Driver
from tests.virtio.fuzzing import BLOCK, blocks, resident, time_limit

SHORT = 15_000
FULL = 1_000_000
GROWTH = 8 << 20

NUMBERS = (0, 1, 2, 3, 8, 16, 17, 255, 256, 1024, 65535, 65536, 2**31, 2**32 - 1)
ADDRESSES = (0, 16, USER, USER + 1, USER + 4096, USER + (1 << 16), 2**63, 2**64 - 4096, 2**64 - 1)
GOOD_FEATURES = F_VERSION_1 | F_INDIRECT_DESC | wire.F_PROTOCOL_FEATURES

MEMORY_FILE = 4
"""Which of `descriptors` is a file: an image, too."""

Made = tuple[int, bytes, list[int]]


@contextmanager
def descriptors() -> Iterator[list[int]]:
    """One of each kind that a front end could send."""
    with ExitStack() as stack:
        pair = socket.socketpair()
        for end in pair:
            stack.callback(end.close)
        pipe = os.pipe()
        fds = [os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK), *pipe, os.memfd_create("guest"), os.open("/", os.O_PATH)]
        for fd in fds:
            stack.callback(os.close, fd)
        yield [*fds, pair[0].fileno()]


class Scribe:
    """Makes messages: mostly those that bring a connection on, with something wrong in some of them."""

    def __init__(self, driver: Driver, others: list[int]) -> None:
        self._driver = driver
        self._others = others
        self.kick = os.eventfd(0)
        self.call = os.eventfd(0, os.EFD_NONBLOCK)

    def close(self) -> None:
        os.close(self.kick)
        os.close(self.call)

    def opening(self, chance: random.Random, features: int) -> list[Made]:
        """What every engine says first, up to a running ring."""
        driver, ring = self._driver, chance.randrange(2)
        places = (USER + driver.table, USER + driver.used, USER + driver.avail)
        return [
            (wire.SET_OWNER, b"", []),
            (wire.SET_PROTOCOL_FEATURES, u64(wire.ALL_FEATURES), []),
            (wire.SET_FEATURES, u64(GOOD_FEATURES | features), []),
            (wire.SET_MEM_TABLE, regions((0, driver.memory_size, USER, 0)), [driver.fd]),
            (wire.SET_VRING_NUM, state(ring, driver.size), []),
            (wire.SET_VRING_BASE, state(ring, 0 if chance.random() < 0.98 else chance.randrange(65536)), []),
            (wire.SET_VRING_ADDR, wire.RING_ADDRESS.pack(ring, 0, *places, 0), []),
            (wire.SET_VRING_CALL, u64(ring), [self.call]),
            (wire.SET_VRING_KICK, u64(ring), [self.kick]),
            (wire.SET_VRING_ENABLE, state(ring, 1), []),
        ]

    def any(self, chance: random.Random) -> Made:
        """Any request with a payload of its form and numbers from the edges."""
        code = chance.choice(list(wire.KINDS))
        ring = chance.choice((0, 0, 1, 1, 2, chance.choice(NUMBERS)))
        fds: list[int] = []
        if code == wire.SET_MEM_TABLE:
            return self._table(chance)
        if code == wire.SET_VRING_ADDR:
            spread = [
                chance.choice(ADDRESSES) if chance.random() < 0.2 else USER + 64 * chance.randrange(1024)
                for _ in range(3)
            ]
            return code, wire.RING_ADDRESS.pack(ring, chance.random() < 0.05, *spread, 0), fds
        if code in (wire.SET_VRING_KICK, wire.SET_VRING_CALL, wire.SET_VRING_ERR):
            right = self.kick if code == wire.SET_VRING_KICK else self.call
            fds = [right if chance.random() < 0.8 else chance.choice(self._others)]
            return code, u64(ring | (0x100 if chance.random() < 0.05 else 0)), fds
        if code in (wire.GET_CONFIG, wire.SET_CONFIG):
            size = chance.choice((0, 1, 12, 40, 256, chance.choice(NUMBERS)))
            offset = chance.choice((0, 0, 4, chance.choice(NUMBERS)))
            return code, wire.CONFIG.pack(offset, size, 0) + bytes(min(size, 256)), fds
        if code in (wire.SET_FEATURES, wire.SET_PROTOCOL_FEATURES, wire.SET_STATUS):
            good = GOOD_FEATURES if code == wire.SET_FEATURES else chance.choice((0, 1, wire.ALL_FEATURES))
            return code, u64(good if chance.random() < 0.8 else chance.getrandbits(64)), fds
        if code == wire.SET_BACKEND_REQ_FD:
            return code, b"", [chance.choice(self._others)]
        if wire.KINDS[code].smallest == 8:
            number = chance.choice((0, 1, 8, 16)) if chance.random() < 0.8 else chance.choice(NUMBERS)
            return code, state(ring, number), fds
        return code, b"", fds

    def _table(self, chance: random.Random) -> Made:
        table: list[tuple[int, int, int, int]] = []
        for number in range(chance.choice((1, 1, 2, 3, 8))):
            region = [number << 20, 4096 * chance.randrange(1, 16), USER + (number << 20), 4096 * chance.randrange(4)]
            if chance.random() < 0.1:
                region[chance.randrange(4)] = chance.choice(ADDRESSES)
            table.append((region[0], region[1], region[2], region[3]))
        count = len(table) if chance.random() < 0.95 else chance.choice(NUMBERS)
        fds = [self._driver.fd if chance.random() < 0.95 else chance.choice(self._others) for _ in table]
        return wire.SET_MEM_TABLE, regions(*table, count=count), fds


def console() -> Device:
    return ConsoleDevice([ConsolePort("", console=True), ConsolePort("one"), ConsolePort("two")])


def vsock() -> Device:
    return VsockDevice(3, lambda port: None)


class Session:
    """One connection of the fuzzer."""

    def __init__(self, chance: random.Random, driver: Driver, others: list[int], loop: Loop) -> None:
        self._chance = chance
        self._driver = driver
        self._others = others
        self._scribe = Scribe(driver, others)
        make: Callable[[], Device] = chance.choice(
            (Echo, Echo, console, vsock, partial(BlockDevice, others[MEMORY_FILE], 1 << 16))
        )
        offered = chance.choice((wire.ALL_FEATURES, wire.UML_FEATURES, wire.QEMU_FEATURES))
        self.front = FrontEnd(make(), protocol_features=offered, loop=loop)
        self.front.socket.setblocking(False)
        driver.bytes[driver.avail : driver.avail + 1024] = bytes(1024)
        driver.index = 0
        self._planned: list[Made] = []
        if chance.random() < 0.8:
            self._planned = self._scribe.opening(chance, F_EVENT_IDX * chance.randrange(2))
            self._planned[1] = (wire.SET_PROTOCOL_FEATURES, u64(offered), [])

    def close(self) -> None:
        self.front.close()
        self._scribe.close()

    def step(self) -> bool:
        """Send one message or kick; return whether the connection lives."""
        chance = self._chance
        kind = chance.random()
        kicks = not self._planned and kind < 0.8
        if kicks:
            made: Made = 0, b"", []
        elif self._planned and chance.random() < 0.99:
            made = self._planned.pop(0)
        else:
            made = self._scribe.any(chance)
        code, payload, fds = made
        flags = wire.VERSION | (wire.FLAG_NEED_REPLY if chance.random() < 0.02 else 0)
        try:
            if kicks:
                self._kick()
            elif kind < 0.98:
                self.front.send(code, payload, fds, flags)
            else:
                self._spoiled(code, payload, fds)
            self.front.turn()
            while self.front.socket.recv(65536):
                pass
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            pass
        return not self.front.ends

    def _kick(self) -> None:
        chance, driver = self._chance, self._driver
        content = chance.randbytes(chance.choice((4, 8, 8, 64)))
        driver.free = 0x4000
        buffers = [driver.place(content), driver.room(64)][chance.randrange(2) : chance.randrange(1, 3)]
        if chance.random() < 0.98 and buffers:
            driver.offer(driver.direct(buffers, 2 * chance.randrange(8)))
        else:
            driver.bytes[driver.table : driver.table + 32] = chance.randbytes(32)
            driver.offer(chance.randrange(32))
        os.eventfd_write(self._scribe.kick, 1)

    def _spoiled(self, code: int, payload: bytes, fds: list[int]) -> None:
        chance = self._chance
        how = chance.randrange(6)
        size = len(payload)
        if how == 0:
            self.front.send_raw(chance.randbytes(chance.randrange(1, 64)))
        elif how == 1:
            self.front.send(chance.randrange(256), payload, fds)
        elif how == 2:
            self.front.send(code, payload, [*fds, *self._others][: chance.randrange(8)] * chance.randrange(1, 30))
        elif how == 3:
            self.front.send_raw(wire.HEADER.pack(code, chance.randrange(256), chance.choice((size, 4096, 4097))))
        elif how == 4:
            self.front.send(code, payload[: chance.randrange(size + 1)], fds)
        else:
            message = wire.HEADER.pack(code, 1, size) + payload
            cut = chance.randrange(1, len(message))
            self.front.send_raw(message[:cut], fds)
            self.front.turn()
            self.front.send_raw(message[cut:])


def fuzz(inputs: int, seconds: int) -> None:
    driver, loop = Driver(16, 1 << 16), Loop()
    size = connections = served = broken = 0
    with time_limit(seconds), descriptors() as others:
        before = open_descriptors(), mapped_guests()
        for number, (name, chance) in enumerate(blocks(inputs)):
            session: Session | None = None
            for _ in range(BLOCK):
                try:
                    session = session or Session(chance, driver, others, loop)
                    alive = session.step()
                except Exception as error:
                    raise AssertionError(f"block {name}: {error!r}") from error
                if not alive or chance.random() < 0.002:
                    connections += 1
                    served += sum(ring.kicks for ring in session.front.backend.rings)
                    broken += len(session.front.broken)
                    for end in session.front.ends:
                        assert end is None or isinstance(end, PeerError), f"block {name}: {end!r}"
                    session.close()
                    session = None
                    assert (open_descriptors(), mapped_guests()) == before, f"block {name}"
            if session is not None:
                session.close()
            if number == 5:
                size = resident()
    assert resident() - size < GROWTH
    print(f"{connections} connections, {served} kicks, {broken} broken rings")
    assert connections > inputs // 200
    assert served > inputs // 50, "rings are to run, or it tests little"
    loop.close()
    driver.close()


def test_fuzz_short() -> None:
    fuzz(SHORT, 120)


@pytest.mark.full
def test_fuzz_a_million() -> None:
    fuzz(FULL, 3600)
