"""A back end and a polite front end: the handshakes of both engines, requests, stopping, starting again."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from pykrun.errors import VhostUserError, VirtqueueError
from pykrun.loop import Loop
from pykrun.vhost_user import QEMU_FEATURES, UML_FEATURES, AllConnections, OneConnection
from pykrun.vhost_user import messages as wire
from pykrun.virtio import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Virtqueue
from tests.vhost_user.devices import Echo
from tests.vhost_user.frontend import USER, FrontEnd, mapped_guests, regions, state, u64
from tests.virtio.driver import Driver


def ask_echo(front: FrontEnd, driver: Driver, kick: int, content: bytes = b"hello", head: int = 0) -> bytes:
    """One request over a ring; returns what came back."""
    room = driver.room(64)
    driver.offer(driver.indirect([driver.place(content), room], head))
    os.eventfd_write(kick, 1)
    front.turn()
    ((finished, length),) = driver.finished()
    assert finished == head
    return driver.read(room[0], length)


def test_request_by_kick_reply_by_call(front: FrontEnd, driver: Driver) -> None:
    kick, call = front.begin(driver)
    assert ask_echo(front, driver, kick) == b"hello"
    assert os.eventfd_read(call) == 1
    assert ask_echo(front, driver, kick, b"again") == b"again"
    assert front.backend.rings[0].kicks == 2
    assert not front.ends


def test_features_on_offer(front: FrontEnd) -> None:
    features = front.ask_u64(wire.GET_FEATURES)
    assert features == F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX | wire.F_PROTOCOL_FEATURES | 1 << 3
    assert front.ask_u64(wire.GET_PROTOCOL_FEATURES) == wire.ALL_FEATURES


def test_handshake_of_user_mode_linux(echo: Echo, driver: Driver) -> None:
    features = UML_FEATURES | wire.PROTOCOL_REPLY_ACK
    front = FrontEnd(echo, protocol_features=features)
    front.send(wire.SET_OWNER)
    front.ask_u64(wire.GET_FEATURES)
    assert front.ask_u64(wire.GET_PROTOCOL_FEATURES) == features
    # It wants its first acknowledgement from the message that negotiates them.
    need = wire.VERSION | wire.FLAG_NEED_REPLY
    front.send(wire.SET_PROTOCOL_FEATURES, u64(features), flags=need)
    assert front.receive() == (wire.SET_PROTOCOL_FEATURES, 5, u64(0))
    requests, ours = socket.socketpair()
    front.send(wire.SET_BACKEND_REQ_FD, b"", [requests.fileno()], flags=need)
    assert front.receive()[2] == u64(0)
    requests.close()
    config = b"".join(
        front.ask(wire.GET_CONFIG, wire.CONFIG.pack(0, size, 0) + bytes(size))[11 + size :] for size in range(1, 16)
    )
    assert config == b"configuration\0\0"
    front.send(wire.SET_FEATURES, u64(F_VERSION_1 | wire.F_PROTOCOL_FEATURES | F_INDIRECT_DESC), flags=need)
    assert front.receive()[2] == u64(0)
    # Room for two regions, one used; the user address is the guest's; the file begins before the region.
    place = 8192
    os.ftruncate(driver.fd, driver.memory_size + place)
    table = regions((USER, driver.memory_size, USER, place), (0, 0, 0, 0), count=1)
    front.send(wire.SET_MEM_TABLE, table, [driver.fd], flags=need)
    assert front.receive()[2] == u64(0)
    content = os.pread(driver.fd, driver.memory_size, 0)
    os.pwrite(driver.fd, content, place)
    front.place_ring(driver, 1)
    call, other = socket.socketpair()  # not an eventfd
    front.send(wire.SET_VRING_CALL, u64(1), [other.fileno()])
    other.close()
    kick = os.eventfd(0)
    front.send(wire.SET_VRING_KICK, u64(1), [kick])
    front.send(wire.SET_VRING_ENABLE, state(1, 1), flags=need)
    assert front.receive()[2] == u64(0)
    assert echo.started == [1]
    # One direct request, written where the region lies in the file.
    descriptor = (USER + 0x8000).to_bytes(8, "little") + (16).to_bytes(4, "little") + bytes(4)
    os.pwrite(driver.fd, descriptor, place + driver.table)
    os.pwrite(driver.fd, b"\0\0\1\0\0\0", place + driver.avail)
    os.eventfd_write(kick, 1)
    front.turn()
    call.setblocking(False)
    assert call.recv(16) == u64(1)
    assert echo.served == 1
    os.close(kick)
    for end in (call, ours):
        end.close()
    front.close()


def test_the_device_hears_what_was_accepted(front: FrontEnd, echo: Echo, driver: Driver) -> None:
    front.begin(driver, features=1 << 3)
    assert [features & 1 << 3 for features in echo.agreed] == [1 << 3]
    assert echo.started == [0], "and that before"
    front.send(wire.SET_FEATURES, u64(F_VERSION_1 | wire.F_PROTOCOL_FEATURES))
    front.turn()
    assert echo.agreed[-1] & 1 << 3 == 0


def test_rings_enabled_before_any_features(front: FrontEnd, echo: Echo, driver: Driver) -> None:
    """As QEMU's network card does it: right after the protocol's features."""
    front.ask(wire.GET_FEATURES)
    front.send(wire.SET_PROTOCOL_FEATURES, u64(wire.ALL_FEATURES))
    front.send(wire.SET_VRING_ENABLE, state(0, 1))
    front.send(wire.SET_FEATURES, u64(F_VERSION_1 | wire.F_PROTOCOL_FEATURES))
    front.share(driver)
    front.place_ring(driver, 0)
    kick = os.eventfd(0)
    front.send(wire.SET_VRING_KICK, u64(0), [kick])
    os.close(kick)
    front.turn()
    assert (front.ends, echo.started) == ([], [0])


def test_handshake_of_qemu(echo: Echo, driver: Driver) -> None:
    front = FrontEnd(echo, protocol_features=QEMU_FEATURES)
    assert front.ask_u64(wire.GET_FEATURES) & F_VERSION_1
    front.send(wire.SET_PROTOCOL_FEATURES, u64(front.ask_u64(wire.GET_PROTOCOL_FEATURES)))
    assert front.ask_u64(wire.GET_QUEUE_NUM) == 2
    front.send(wire.SET_OWNER)
    early = os.eventfd(0, os.EFD_NONBLOCK)
    for index in (0, 1):
        front.send(wire.SET_VRING_CALL, u64(index), [early])  # before there is any memory
    front.send(wire.SET_VRING_ERR, u64(0), [early])
    front.send(wire.SET_FEATURES, u64(F_VERSION_1 | wire.F_PROTOCOL_FEATURES | F_INDIRECT_DESC | F_EVENT_IDX))
    front.share(driver)
    kick, call = front.start_ring(driver, 0)
    assert ask_echo(front, driver, kick) == b"hello"
    assert os.eventfd_read(call) == 1
    with pytest.raises(BlockingIOError):
        os.eventfd_read(early)
    front.send(wire.SET_VRING_ENABLE, state(0, 0))
    assert front.ask(wire.GET_VRING_BASE, state(0, 0)) == state(0, 1)
    assert front.ask(wire.GET_VRING_BASE, state(1, 0)) == state(1, 0)
    os.close(early)
    front.close()
    assert not front.ends


def test_what_was_there_before_the_start_is_served(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    driver.offer(driver.direct([driver.room(8)]))
    front.begin(driver)
    assert echo.served == 1


def test_a_ring_waits_until_it_is_enabled(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    kick, _ = front.begin(driver)
    front.send(wire.SET_VRING_ENABLE, state(0, 0))
    front.turn()
    driver.offer(driver.direct([driver.room(8)]))
    os.eventfd_write(kick, 1)
    front.turn()
    assert echo.served == 0
    front.send(wire.SET_VRING_ENABLE, state(0, 1))
    front.turn()
    assert echo.served == 1


def test_without_protocol_features_rings_are_enabled_from_the_start(front: FrontEnd, driver: Driver) -> None:
    front.send(wire.SET_FEATURES, u64(F_VERSION_1 | F_INDIRECT_DESC))
    front.share(driver)
    front.place_ring(driver, 0)
    kick = os.eventfd(0)
    front.send(wire.SET_VRING_KICK, u64(0), [kick])
    front.turn()
    assert ask_echo(front, driver, kick) == b"hello"
    os.close(kick)


def test_stop_and_go_on(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    kick, _ = front.begin(driver)
    ask_echo(front, driver, kick)
    assert front.ask(wire.GET_VRING_BASE, state(0, 0)) == state(0, 1)
    assert echo.stopped == [0]
    os.eventfd_write(kick, 1)
    front.turn()
    driver.offer(driver.direct([driver.room(8)], 3))
    front.turn()
    assert echo.served == 1
    kick, _ = front.start_ring(driver, 0, base=1)
    front.turn()
    assert echo.served == 2
    assert echo.resets == 0, "the same driver goes on"
    assert driver.finished() == [(3, 0)]


def test_a_new_driver_resets_the_device(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    kick, _ = front.begin(driver)
    ask_echo(front, driver, kick)
    driver.bytes[driver.avail : driver.free] = bytes(driver.free - driver.avail)
    driver.index = driver._seen = 0
    kick, _ = front.start_ring(driver, 0)
    assert (echo.started, echo.stopped, echo.resets) == ([0, 0], [0], 1)
    assert ask_echo(front, driver, kick) == b"hello"


@pytest.mark.parametrize("message", [(wire.RESET_OWNER, b""), (wire.SET_STATUS, u64(0))])
def test_reset(front: FrontEnd, driver: Driver, echo: Echo, message: tuple[int, bytes]) -> None:
    front.begin(driver)
    front.send(*message)
    front.turn()
    assert (echo.stopped, echo.resets) == ([0], 1)
    assert not front.ends


def test_status_is_kept(front: FrontEnd) -> None:
    front.negotiate()
    front.send(wire.SET_STATUS, u64(0xF))
    assert front.ask_u64(wire.GET_STATUS) == 0xF


def test_new_memory_while_a_ring_runs(front: FrontEnd, driver: Driver) -> None:
    kick, _ = front.begin(driver)
    ask_echo(front, driver, kick)
    before = mapped_guests()
    front.share(driver)
    front.turn()
    assert mapped_guests() == before, "the old mapping is gone"
    assert ask_echo(front, driver, kick, b"after") == b"after"


def test_acknowledgements(front: FrontEnd, driver: Driver) -> None:
    front.negotiate()
    need = wire.VERSION | wire.FLAG_NEED_REPLY
    front.send(wire.SET_MEM_TABLE, regions((0, driver.memory_size, USER, 0)), [driver.fd], flags=need)
    assert front.receive() == (wire.SET_MEM_TABLE, 5, u64(0))
    front.send(200, b"who knows", flags=need)  # unknown: refused, and the connection goes on
    assert front.receive() == (200, 5, u64(1))
    front.send(wire.GET_FEATURES, flags=need)
    assert front.receive()[0] == wire.GET_FEATURES
    assert not front.ends


def test_config_beyond_the_fields_is_zero(front: FrontEnd) -> None:
    front.negotiate()
    reply = front.ask(wire.GET_CONFIG, wire.CONFIG.pack(250, 6, 0) + bytes(6))
    assert reply == wire.CONFIG.pack(250, 6, 0) + bytes(6)
    front.send(wire.SET_CONFIG, wire.CONFIG.pack(0, 1, 0) + b"x")
    assert front.ask(wire.GET_CONFIG, wire.CONFIG.pack(0, 1, 0) + b"\0")[-1:] == b"c"


def test_messages_may_come_in_pieces(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    front.negotiate()
    table = regions((0, driver.memory_size, USER, 0))
    message = wire.HEADER.pack(wire.SET_MEM_TABLE, 1, len(table)) + table
    front.send_raw(message[:1], [driver.fd])
    for byte in message[1:]:
        front.turn()
        front.send_raw(bytes([byte]))
    front.start_ring(driver, 0)
    assert echo.started == [0]


def test_two_rings(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    kick, _ = front.begin(driver, 1)
    other = Driver(16)
    assert ask_echo(front, driver, kick) == b"hello"
    assert echo.started == [1]
    other.close()


def test_the_front_end_goes(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    front.begin(driver)
    front.socket.close()
    front.turn()
    assert front.ends == [None]
    assert (echo.stopped, echo.resets) == ([0], 1)
    front.backend.close()
    assert front.ends == [None]


def test_a_fresh_back_end_serves_the_same_device_again(echo: Echo, driver: Driver) -> None:
    for round_number in (1, 2, 3):
        front = FrontEnd(echo)
        kick, _ = front.begin(driver)
        assert ask_echo(front, driver, kick) == b"hello"
        front.close()
        assert echo.resets == round_number
        driver.bytes[driver.avail : driver.free] = bytes(driver.free - driver.avail)
        driver.index = driver._seen = 0


def test_close_in_the_middle_of_a_request(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    """What a request does may end the VM: everything goes at once, and nothing is raised in the loop."""
    kick, _ = front.begin(driver)
    echo.before_reply = front.backend.close
    driver.offer(driver.indirect([driver.place(b"exit"), driver.room(8)]))
    os.eventfd_write(kick, 1)
    front.turn()
    assert mapped_guests() == 1, "only the driver's own"
    assert front.ends == []
    assert echo.served == 1


def test_a_device_that_fails_ends_its_connection_not_the_loop(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    kick, _ = front.begin(driver)

    def fail() -> None:
        raise RuntimeError("a mistake of ours")

    echo.before_reply = fail
    driver.offer(driver.indirect([driver.place(b"x"), driver.room(8)]))
    os.eventfd_write(kick, 1)
    front.turn()
    (error,) = front.ends
    assert isinstance(error, RuntimeError)
    assert "test_backend.py" in error.__notes__[0], "where it came from is still known"
    assert mapped_guests() == 1


@pytest.mark.parametrize("hook", ["queue_stopped", "reset", "queue_started", "config"])
def test_a_hook_that_fails_leaves_nothing(
    front: FrontEnd, driver: Driver, echo: Echo, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(echo, hook, fail)
    front.begin(driver)
    if not front.ends:
        driver.offer(99)
        os.eventfd_write(front.kicks[0], 1)
        front.turn()
    if not front.ends:
        front.send(wire.GET_CONFIG, wire.CONFIG.pack(0, 1, 0) + b"\0")
        front.send(wire.GET_FEATURES, b"broken")
        front.turn()
    assert isinstance(front.ends[0], RuntimeError | VhostUserError)
    assert mapped_guests() == 1


def test_a_broken_queue_stops_alone(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    kick, _ = front.begin(driver)
    told = os.eventfd(0, os.EFD_NONBLOCK)
    front.send(wire.SET_VRING_ERR, u64(0), [told])
    front.turn()
    driver.offer(99)
    os.eventfd_write(kick, 1)
    front.turn()
    ((index, error),) = front.broken
    assert index == 0
    assert isinstance(error, VirtqueueError)
    assert os.eventfd_read(told) == 1
    assert echo.stopped == [0]
    os.eventfd_write(kick, 1)
    front.turn()
    assert len(front.broken) == 1
    assert front.ask_u64(wire.GET_FEATURES), "the connection goes on"
    os.close(told)


def test_a_guest_that_never_stops_adding_does_not_starve_the_others(
    front: FrontEnd, driver: Driver, echo: Echo
) -> None:
    """A virtual CPU that adds a request whenever one is taken: timers still get their turn."""
    kick, _ = front.begin(driver)
    for head in range(16):
        driver.direct([driver.room(8)], head)

    def add() -> None:
        if echo.served < 100_000:
            driver.offer((echo.served + 7) % 16)

    echo.before_reply = add
    driver.offer(*range(8))
    os.eventfd_write(kick, 1)
    seen: list[int] = []
    for _ in range(3):
        front.turn()
        seen.append(echo.served)
    assert 0 < seen[0] < seen[1] < seen[2] < 1000
    assert not front.broken


def test_a_new_call_descriptor_is_called_for_what_went_to_the_old(front: FrontEnd, driver: Driver) -> None:
    kick, old = front.begin(driver)
    first, second = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
    front.send(wire.SET_VRING_CALL, u64(0), [first])
    front.turn()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(first)
    ask_echo(front, driver, kick)
    front.send(wire.SET_VRING_CALL, u64(0), [second])
    front.turn()
    assert (os.eventfd_read(first), os.eventfd_read(second)) == (1, 1)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(old)
    os.close(first)
    os.close(second)


def test_a_device_is_called_again_when_it_asks(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    """`wake` from within `serve`: a port becomes ready while it is served."""
    kick, _ = front.begin(driver)
    woken = depth = 0

    class Waker(Echo):
        def serve(self, queue: Virtqueue) -> None:
            nonlocal woken, depth
            assert depth == 0, "never inside itself"
            depth += 1
            woken += 1
            if woken < 10:
                queue.wake()
            depth -= 1

    other = FrontEnd(Waker(), loop=front.loop)
    ring = Driver(16)
    other.begin(ring)
    front.turn(0.05)
    assert woken == 10
    assert ask_echo(front, driver, kick) == b"hello"
    other.close()
    ring.close()


def listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(4)
    return listener


def test_one_connection_only(tmp_path: Path) -> None:
    loop = Loop()
    path = str(tmp_path / "socket")
    listener = listening(path)
    came: list[socket.socket] = []

    def on_connection(connection: socket.socket) -> None:
        came.append(connection)
        loop.stop()

    waiting = OneConnection(loop, listener, on_connection)
    first, second, third = (socket.socket(socket.AF_UNIX) for _ in range(3))
    first.connect(path)
    second.connect(path)
    loop.run()
    assert len(came) == 1
    first.send(b"hello")
    assert came[0].recv(5) == b"hello"
    with pytest.raises(ConnectionResetError):
        second.recv(1)
    with pytest.raises(ConnectionRefusedError):
        third.connect(path)
    waiting.close()
    for end in (first, second, third, *came):
        end.close()
    loop.close()


@pytest.mark.parametrize("kind", [OneConnection, AllConnections])
def test_without_a_descriptor_left_it_listens_again_later(
    tmp_path: Path, kind: type[OneConnection | AllConnections]
) -> None:
    loop = Loop()
    path = str(tmp_path / "socket")
    listener = listening(path)
    came: list[socket.socket] = []

    def on_connection(connection: socket.socket) -> None:
        came.append(connection)
        loop.stop()

    waiting = kind(loop, listener, on_connection)
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 2, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        loop.call_later(0.35, loop.stop)
        begun = time.process_time()
        loop.run()
        assert time.process_time() - begun < 0.2, "it tries again and again"
        assert came == []
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    loop.call_later(30, loop.stop)
    loop.run()
    assert len(came) == 1
    waiting.close()
    for end in (client, *came):
        end.close()
    loop.close()


def test_waiting_for_a_connection_can_be_given_up(tmp_path: Path) -> None:
    loop = Loop()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen(1)
    waiting = OneConnection(loop, listener, lambda connection: None)
    waiting.close()
    waiting.close()
    assert listener.fileno() == -1
    loop.close()
