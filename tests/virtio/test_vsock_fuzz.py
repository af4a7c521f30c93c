"""Random vsock packets against random acts of the host: bounded, and never an exception."""

from __future__ import annotations

import random
import socket

import pytest

from pykrun.errors import VirtqueueError
from pykrun.virtio import vsock as wire
from pykrun.virtio.vsock import WINDOW
from tests.virtio.fuzzing import BLOCK, blocks, resident, time_limit
from tests.virtio.vsock_guest import CID, GUEST, PORT, Guest

SHORT = 2_000
FULL = 200_000
GROWTH = 8 << 20
STEPS = 12


def life(chance: random.Random) -> None:
    """A guest that mostly knows the rules, over a few ports, and a host that does as it likes."""
    guest = Guest()
    operations = (*range(1, 8), wire.RW, wire.RW, wire.REQUEST, 0, 9)
    try:
        for _ in range(chance.randrange(1, STEPS)):
            what = chance.random()
            if what < 0.65:
                guest.say(
                    chance.choice(operations),
                    bytes(chance.choice((0, 0, 1, 100, 5000, 60_000))),
                    flags=chance.choice((0, 1, 2, 3, 3, 2**32 - 1)),
                    host=PORT if chance.random() < 0.9 else chance.choice((1, wire._FIRST_PORT + 1)),
                    guest=GUEST + chance.randrange(2),
                    room=chance.choice((0, 10, 5000, WINDOW, 2**32 - 1)),
                    used=chance.choice((0, 0, 5000, 2**32 - 1)),
                    source=CID if chance.random() < 0.97 else chance.getrandbits(64),
                    kind=wire.STREAM if chance.random() < 0.97 else chance.getrandbits(16),
                    length=None if chance.random() < 0.97 else chance.getrandbits(chance.choice((3, 16, 32))),
                )
            elif what < 0.75 and guest.hosts:
                _act(chance, chance.choice(guest.hosts))
            elif what < 0.8:
                guest.device.open(GUEST + chance.randrange(2), guest.peer())
            elif what < 0.82:
                guest.device.reset()
            else:
                guest.turn()
                guest.give_rooms(chance.randrange(1, 8))
                guest.heard()
            assert guest.device.connections <= STEPS
            for connection in guest.device._connections.values():
                assert len(connection.unsent) <= WINDOW
    except VirtqueueError:
        pass
    finally:
        guest.close()


def _act(chance: random.Random, host: socket.socket) -> None:
    what = chance.randrange(5)
    try:
        if what == 0:
            host.send(bytes(chance.choice((1, 5000, 100_000))))
        elif what == 1:
            host.recv(100_000)
        elif what == 2:
            host.shutdown(socket.SHUT_WR)
        elif what == 3:
            host.shutdown(socket.SHUT_RD)
        else:
            host.close()
    except OSError:
        pass


def fuzz(inputs: int, seconds: int) -> None:
    with time_limit(seconds):
        base = 0
        for number, (name, chance) in enumerate(blocks(inputs)):
            for _ in range(BLOCK):
                try:
                    life(chance)
                except Exception as error:
                    raise AssertionError(f"in block {name}") from error
            if number == 0:
                base = resident()
        assert resident() - base < GROWTH


def test_fuzz_short() -> None:
    fuzz(SHORT, 120)


@pytest.mark.full
def test_fuzz_long() -> None:
    fuzz(FULL, 3000)
