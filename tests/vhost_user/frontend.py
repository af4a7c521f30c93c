"""A scripted vhost-user front end on one end of a socketpair, with the back end on the other."""

from __future__ import annotations

import array
import os
import select
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pykrun.errors import VirtqueueError
from pykrun.loop import Loop
from pykrun.vhost_user import Backend
from pykrun.vhost_user import messages as wire
from pykrun.virtio import F_INDIRECT_DESC, F_VERSION_1, Device
from tests.virtio.driver import Driver

USER = 0x7F00_0000_0000
"""Where a front end of ours has the guest's memory: ring addresses are given as such."""

PATIENCE = 5.0

Message = tuple[int, bytes, Sequence[int]]


def u64(value: int) -> bytes:
    return wire.U64.pack(value)


def state(index: int, number: int) -> bytes:
    return wire.RING_STATE.pack(index, number)


def regions(*table: tuple[int, int, int, int], count: int | None = None) -> bytes:
    """A memory table of (guest, size, user, offset)."""
    return wire.TABLE_HEAD.pack(len(table) if count is None else count, 0) + b"".join(
        wire.REGION.pack(*region) for region in table
    )


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mapped_guests() -> int:
    """How many mappings of guest memory this process has."""
    return Path("/proc/self/maps").read_text().count("memfd:guest")


class FrontEnd:
    """Talks to a back end and turns its loop while it waits."""

    def __init__(self, device: Device, *, protocol_features: int = wire.ALL_FEATURES, loop: Loop | None = None) -> None:
        self._own_loop = loop is None
        self.loop = loop or Loop()
        self.socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.ends: list[Exception | None] = []
        self.broken: list[tuple[int, VirtqueueError]] = []
        self.kicks: list[int] = []
        self.calls: list[int] = []
        self.backend = Backend(
            self.loop,
            device,
            other,
            protocol_features=protocol_features,
            on_close=self.ends.append,
            on_broken=lambda index, error: self.broken.append((index, error)),
        )

    def close(self) -> None:
        self.backend.close()
        self.socket.close()
        for fd in self.kicks + self.calls:
            os.close(fd)
        self.kicks, self.calls = [], []
        if self._own_loop:
            self.loop.close()

    def turn(self, seconds: float = 0.0) -> None:
        """Turn the loop until nothing more is to be done, or for that long."""
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run()

    def turn_until(self, condition: Callable[[], object]) -> None:
        """Turn the loop until the condition holds; fails after a while."""

        def check() -> None:
            if condition():
                self.loop.stop()
            else:
                timers.append(self.loop.call_later(0.001, check))

        timers = [self.loop.call_later(PATIENCE, self.loop.stop)]
        check()
        if not condition():
            self.loop.run()
        for timer in timers:
            timer.cancel()
        assert condition()

    def send_raw(self, content: bytes, descriptors: Iterable[int] = ()) -> None:
        fds = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds.tobytes())] if fds else []
        self.socket.sendmsg([content], ancillary)

    def send(self, code: int, payload: bytes = b"", descriptors: Iterable[int] = (), flags: int = wire.VERSION) -> None:
        self.send_raw(wire.HEADER.pack(code, flags, len(payload)) + payload, descriptors)

    def receive(self) -> tuple[int, int, bytes]:
        """Code, flags and payload of the next reply."""
        self.turn_until(lambda: select.select([self.socket], [], [], 0)[0])
        code, flags, size = wire.HEADER.unpack(self.socket.recv(wire.HEADER.size))
        return code, flags, self.socket.recv(size) if size else b""

    def ask(self, code: int, payload: bytes = b"") -> bytes:
        self.send(code, payload)
        answered, flags, reply = self.receive()
        assert (answered, flags) == (code, wire.VERSION | wire.FLAG_REPLY)
        return reply

    def ask_u64(self, code: int) -> int:
        value: int = wire.U64.unpack(self.ask(code))[0]
        return value

    def negotiate(self, features: int = 0, protocol: int = wire.ALL_FEATURES) -> None:
        """Features as an engine accepts them."""
        self.send(wire.SET_OWNER)
        self.ask(wire.GET_FEATURES)
        self.send(wire.SET_PROTOCOL_FEATURES, u64(protocol))
        self.send(wire.SET_FEATURES, u64(features | F_VERSION_1 | F_INDIRECT_DESC | wire.F_PROTOCOL_FEATURES))

    def share(self, driver: Driver) -> None:
        """Hand over a guest's memory."""
        table = regions((driver.start, driver.memory_size, USER, 0))
        self.send(wire.SET_MEM_TABLE, table, [driver.fd])

    def place_ring(self, driver: Driver, index: int, base: int = 0) -> None:
        self.send(wire.SET_VRING_NUM, state(index, driver.size))
        self.send(wire.SET_VRING_BASE, state(index, base))
        table, used, avail = (USER + place for place in (driver.table, driver.used, driver.avail))
        self.send(wire.SET_VRING_ADDR, wire.RING_ADDRESS.pack(index, 0, table, used, avail, 0))

    def start_ring(self, driver: Driver, index: int, base: int = 0) -> tuple[int, int]:
        """Set a ring up and start it; returns its kick and call descriptors."""
        self.place_ring(driver, index, base)
        kick, call = os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK)
        self.kicks.append(kick)
        self.calls.append(call)
        self.send(wire.SET_VRING_CALL, u64(index), [call])
        self.send(wire.SET_VRING_KICK, u64(index), [kick])
        self.send(wire.SET_VRING_ENABLE, state(index, 1))
        self.turn()
        return kick, call

    def begin(self, driver: Driver, index: int = 0, features: int = 0) -> tuple[int, int]:
        """Everything up to a running ring."""
        self.negotiate(features)
        self.share(driver)
        return self.start_ring(driver, index)
