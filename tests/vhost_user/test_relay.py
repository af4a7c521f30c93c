"""The relay between a front end and somebody else's back end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pykrun.errors import EngineError, PykrunError, VhostUserError
from pykrun.loop import Loop
from pykrun.vhost_user import messages as wire
from pykrun.vhost_user.relay import Relay
from pykrun.virtio import F_VERSION_1
from tests.vhost_user.devices import Echo
from tests.vhost_user.frontend import FrontEnd, u64
from tests.virtio.driver import Driver

ECHO = 1 << 3


class Between:
    """A front end, a relay, and a real back end behind it."""

    def __init__(self) -> None:
        self.device = Echo()
        self.front = FrontEnd(self.device)
        self.ends: list[PykrunError | None] = []
        # The front end's socket becomes the relay's way to the back end; we speak to the relay instead.
        ours, theirs = socket.socketpair()
        self.relay = Relay(self.front.loop, theirs, self.front.socket, hidden=ECHO, on_close=self.ends.append)
        self.back = self.front.socket
        self.front.socket = ours
        ours.settimeout(5)

    def close(self) -> None:
        self.relay.close()
        self.front.close()


@pytest.fixture
def between() -> Iterator[Between]:
    between = Between()
    yield between
    between.close()


def test_features_are_hidden_and_everything_else_goes_through(between: Between, driver: Driver) -> None:
    front = between.front
    features = front.ask_u64(wire.GET_FEATURES)
    assert features & F_VERSION_1
    assert not features & ECHO
    assert front.ask_u64(wire.GET_PROTOCOL_FEATURES) == wire.ALL_FEATURES


def test_rings_run_behind_it(between: Between, driver: Driver) -> None:
    """Descriptors arrive too: memory, kick and call."""
    front = between.front
    kick, call = front.begin(driver)
    for _ in range(20):  # each message takes a turn more
        front.turn(0.002)
    room = driver.room(16)
    driver.offer(driver.indirect([driver.place(b"hello"), room]))
    os.eventfd_write(kick, 1)
    front.turn_until(lambda: between.device.served)
    assert driver.read(room[0], 5) == b"hello"
    assert os.eventfd_read(call)


def test_configuration_in_pieces(between: Between) -> None:
    front = between.front
    front.send(wire.SET_PROTOCOL_FEATURES, u64(wire.ALL_FEATURES))
    for size in (1, 5, 13):
        reply = front.ask(wire.GET_CONFIG, wire.CONFIG.pack(0, size, 0) + bytes(size))
        assert reply[wire.CONFIG.size :] == b"configuration"[:size]


def test_the_front_end_goes(between: Between) -> None:
    between.front.socket.close()
    between.front.turn_until(lambda: between.ends)
    assert between.ends == [None]
    between.front.turn_until(lambda: between.front.ends)
    assert between.front.ends == [None]


def test_the_front_end_lies(between: Between) -> None:
    between.front.send_raw(wire.HEADER.pack(wire.GET_FEATURES, 7, 0))
    between.front.turn_until(lambda: between.ends)
    assert isinstance(between.ends[0], VhostUserError)


def test_the_back_end_goes(between: Between) -> None:
    between.front.backend.close()
    between.front.turn_until(lambda: between.ends)
    assert isinstance(between.ends[0], EngineError)


def fake() -> tuple[Loop, socket.socket, socket.socket, list[PykrunError | None], Relay]:
    """A relay with both far ends in our hands."""
    loop = Loop()
    front, theirs = socket.socketpair()
    back, far = socket.socketpair()
    ends: list[PykrunError | None] = []
    return loop, front, far, ends, Relay(loop, theirs, back, hidden=0, on_close=ends.append)


def turn(loop: Loop) -> None:
    loop.call_later(0.02, loop.stop)
    loop.run()


def test_a_back_end_that_answers_too_much() -> None:
    loop, front, back, ends, relay = fake()
    back.send(wire.HEADER.pack(wire.GET_CONFIG, 5, 4097))
    turn(loop)
    assert isinstance(ends[0], VhostUserError)
    relay.close()
    front.close()
    back.close()
    loop.close()


def test_answers_in_pieces() -> None:
    loop, front, back, ends, relay = fake()
    message = wire.HEADER.pack(wire.GET_FEATURES, 5, 8) + u64(7)
    for byte in message * 2:
        back.send(bytes([byte]))
        turn(loop)
    front.setblocking(False)
    assert front.recv(100) == message * 2
    assert ends == []
    relay.close()
    for end in (front, back):
        end.close()
    loop.close()


def test_a_back_end_that_does_not_read() -> None:
    """The guest's own server is stuck: the front end is not to fill our memory."""
    loop, front, back, ends, relay = fake()
    front.setblocking(False)
    request = wire.HEADER.pack(wire.SET_VRING_NUM, 1, 8) + bytes(8)
    for _ in range(200):
        try:
            front.send(request * 100)
        except BlockingIOError:
            pass
        turn(loop) if not ends else None
        if ends:
            break
    assert isinstance(ends[0], VhostUserError)
    relay.close()
    for end in (front, back):
        end.close()
    loop.close()
