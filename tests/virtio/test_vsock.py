"""The vsock device with a driver played by hand and real sockets at the host's end: polite and hostile."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.errors import VirtqueueError
from pykrun.supervisor.vsock import SocketPeer
from pykrun.virtio import vsock as wire
from pykrun.virtio.vsock import HEADER, HOST_CID, MAX_CONNECTIONS, WINDOW
from tests.virtio.vsock_guest import CID, GUEST, PORT, Guest, Packet


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


def read(host: socket.socket) -> bytes:
    content = b""
    try:
        while chunk := host.recv(1 << 20):
            content += chunk
    except BlockingIOError:
        pass
    return content


def rst(guest: int = GUEST, host: int = PORT) -> Packet:
    return (wire.RST, host, guest, 0, b"")


def test_the_address(guest: Guest) -> None:
    assert guest.device.config() == b"\x03" + bytes(7)
    assert (guest.device.device_id, guest.device.features) == (19, 0)


def test_there_and_back(guest: Guest) -> None:
    host = guest.connect()
    guest.say(wire.RW, b"question")
    assert read(host) == b"question"
    host.sendall(b"answer" * 2000)
    packets = guest.talk()
    assert {packet[:4] for packet in packets} == {(wire.RW, PORT, GUEST, 0)}
    assert b"".join(packet[4] for packet in packets) == b"answer" * 2000


def test_half_a_close_each_way(guest: Guest) -> None:
    host = guest.connect()
    guest.say(wire.RW, b"last")
    guest.say(wire.SHUTDOWN, flags=wire.SHUT_SEND)
    assert host.recv(10) == b"last"
    assert host.recv(10) == b"", "the end"
    host.sendall(b"still here")
    host.shutdown(socket.SHUT_WR)
    assert guest.talk() == [
        (wire.RW, PORT, GUEST, 0, b"still here"),
        (wire.SHUTDOWN, PORT, GUEST, wire.SHUT_SEND, b""),
        (wire.SHUTDOWN, PORT, GUEST, wire.SHUT_BOTH, b""),
    ], "after two halves there is nothing left"
    guest.say(wire.SHUTDOWN, flags=wire.SHUT_BOTH)
    assert guest.talk() == [rst()]
    assert guest.device.connections == 0


def test_a_host_that_closes(guest: Guest) -> None:
    """What it has sent is read; then neither direction goes on, and the guest says when it has seen it."""
    host = guest.connect()
    host.sendall(b"goodbye")
    host.close()
    assert guest.talk() == [
        (wire.RW, PORT, GUEST, 0, b"goodbye"),
        (wire.SHUTDOWN, PORT, GUEST, wire.SHUT_SEND, b""),
        (wire.SHUTDOWN, PORT, GUEST, wire.SHUT_BOTH, b""),
    ]
    assert guest.device.connections == 1
    guest.say(wire.RST)
    assert guest.device.connections == 0
    assert guest.talk() == []


def test_a_host_that_closes_later(guest: Guest) -> None:
    host = guest.connect()
    host.shutdown(socket.SHUT_WR)
    assert guest.talk() == [(wire.SHUTDOWN, PORT, GUEST, wire.SHUT_SEND, b"")]
    host.close()
    assert guest.talk() == [(wire.SHUTDOWN, PORT, GUEST, wire.SHUT_BOTH, b"")]
    guest.say(wire.RW, b"too late")
    assert guest.talk() == [rst()]


def test_bytes_for_a_host_that_is_gone(guest: Guest) -> None:
    host = guest.connect()
    host.close()
    guest.say(wire.RW, b"too late")
    assert guest.talk() == [rst()]
    assert guest.device.connections == 0


def test_a_guest_that_reads_no_more(guest: Guest) -> None:
    host = guest.connect()
    guest.say(wire.SHUTDOWN, flags=wire.SHUT_RECEIVE)
    with pytest.raises(BrokenPipeError):
        host.sendall(b"x")
    guest.say(wire.RW, b"but writes")
    assert read(host) == b"but writes"


def test_the_guests_credit(guest: Guest) -> None:
    """As much as it has room for goes, and more when it says so."""
    host = guest.connect(room=10_000)
    host.sendall(b"x" * 30_000)
    assert sum(len(packet[4]) for packet in guest.talk()) == 10_000
    guest.say(wire.CREDIT_UPDATE, room=10_000, used=4_000)
    assert sum(len(packet[4]) for packet in guest.talk()) == 4_000
    guest.say(wire.CREDIT_UPDATE, room=50_000, used=14_000)
    assert sum(len(packet[4]) for packet in guest.talk()) == 16_000


@pytest.mark.parametrize(("room", "used"), [(0, 0), (10, 2**32 - 1), (2**32 - 1, 2**31), (1000, 5000)])
def test_lies_about_credit(guest: Guest, room: int, used: int) -> None:
    """They stop the stream of who lies, at most."""
    host = guest.connect(room=100)
    host.sendall(b"x" * 300)
    assert sum(len(packet[4]) for packet in guest.talk()) == 100
    guest.say(wire.CREDIT_UPDATE, room=room, used=used)
    guest.talk()
    other = guest.connect(guest=GUEST + 1)
    other.sendall(b"goes on")
    assert [packet[4] for packet in guest.talk()] == [b"goes on"]


def test_our_credit(guest: Guest) -> None:
    """A host that does not read: its window is kept here; one byte more is the guest's fault, and its end."""
    host = guest.connect()
    sent = 0
    chunk = b"y" * 60_000
    answers: list[Packet] = []
    while guest.device.connections and sent < 4 << 20:
        guest.say(wire.RW, chunk)
        answers += guest.heard()
        sent += len(chunk)
    assert WINDOW <= sent < 2 << 20, "a socket's buffer and a window"
    assert rst() in answers + guest.talk()
    host.close()


def test_a_slow_host(guest: Guest) -> None:
    """The guest hears of room as the host reads, and nothing is lost."""
    host = guest.connect()
    total, sent, used, got = 3 << 20, 0, 0, b""
    while len(got) < total:
        while sent < total and sent - used + 50_000 <= WINDOW:
            part = bytes([sent % 251]) * min(50_000, total - sent)
            guest.say(wire.RW, part)
            sent += len(part)
        try:
            got += host.recv(20_000)
        except BlockingIOError:
            pass
        guest.turn()
        guest.give_rooms()
        ring = guest.rings[wire.RECEIVE]
        for head, _length in ring.finished():
            fields = HEADER.unpack(ring.read(ring.start + guest._start + head * 4400, 44))
            assert fields[6] == wire.CREDIT_UPDATE
            used = fields[9]
            guest.free += [head, head + 1]
        guest.free.sort()
    assert len(got) == total
    assert got[:60_000] == b"\0" * 50_000 + bytes([50_000 % 251]) * 10_000


def test_a_guest_that_closes_before_the_host_has_read(guest: Guest) -> None:
    host = guest.connect()
    content = bytes(range(256)) * 1700  # more than a socket's buffer
    for start in range(0, len(content), 50_000):
        guest.say(wire.RW, content[start : start + 50_000])
    guest.say(wire.SHUTDOWN, flags=wire.SHUT_BOTH)
    assert rst() in guest.talk(), "the guest is done"
    got = b""
    while chunk := host.recv(10_000):
        got += chunk
        guest.turn()
    assert got == content
    assert guest.device.connections == 0


def test_from_the_host(guest: Guest) -> None:
    assert guest.device.open(77, guest.peer())
    host = guest.hosts[-1]
    host.sendall(b"before it was answered")
    ((operation, port, number, _, _),) = guest.talk()
    assert (operation, number) == (wire.REQUEST, 77)
    guest.say(wire.RESPONSE, host=port, guest=77)
    assert [packet[4] for packet in guest.talk()] == [b"before it was answered"]
    guest.say(wire.RW, b"and back", host=port, guest=77)
    assert read(host) == b"and back"


def test_from_the_host_refused(guest: Guest) -> None:
    guest.device.open(77, guest.peer())
    ((_, port, _, _, _),) = guest.talk()
    guest.say(wire.RST, host=port, guest=77)
    assert guest.hosts[-1].recv(1) == b""
    assert (guest.talk(), guest.device.connections) == ([], 0)


def test_before_the_driver_is_there() -> None:
    """Who connects early waits for the guest."""
    guest = Guest()
    guest.device.queue_stopped(guest.queues[wire.RECEIVE])
    guest.device.open(77, guest.peer())
    guest.device.queue_started(guest.queues[wire.RECEIVE])
    assert [packet[0] for packet in guest.talk()] == [wire.REQUEST]
    guest.close()


def test_one_of_many_does_not_hold_up_the_others(guest: Guest) -> None:
    """In turns: who sends for ever leaves room for who sends a word."""
    hosts = [guest.connect(guest=GUEST + number) for number in range(3)]
    for _ in range(3):
        try:
            hosts[0].sendall(b"z" * 100_000)
        except BlockingIOError:
            pass
    hosts[1].sendall(b"one")
    hosts[2].sendall(b"two")
    order = [packet[2] for packet in guest.talk()]
    last = len(order) - 1 - order[::-1].index(GUEST)
    assert max(order.index(GUEST + 1), order.index(GUEST + 2)) < last


def test_a_listener_whose_queue_is_full(guest: Guest, tmp_path: Path) -> None:
    """The guest is connected; what it sends arrives when somebody accepts."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(tmp_path / "busy"))
        listener.listen(0)
        first.connect(str(tmp_path / "busy"))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with pytest.raises(BlockingIOError):
            connection.connect(str(tmp_path / "busy"))
        peer = SocketPeer(guest.loop, connection, str(tmp_path / "busy"))
        guest.connect_to = peer
        guest.say(wire.REQUEST)
        assert guest.talk() == [(wire.RESPONSE, PORT, GUEST, 0, b"")]
        guest.say(wire.RW, b"patient")
        guest.say(wire.SHUTDOWN, flags=wire.SHUT_SEND)
        guest.turn()
        listener.accept()[0].close()
        guest.loop.call_later(0.2, guest.loop.stop)
        guest.loop.run()
        with listener.accept()[0] as second:
            second.settimeout(20)
            assert second.recv(100) == b"patient"
            assert second.recv(100) == b""


# A guest that breaks rules


@pytest.mark.parametrize("operation", [0, wire.RESPONSE, wire.SHUTDOWN, wire.RW, 8, 65535])
def test_a_connection_that_is_not(guest: Guest, operation: int) -> None:
    guest.say(operation, b"x" if operation == wire.RW else b"")
    assert guest.talk() == [rst()]


def test_a_reset_is_not_answered(guest: Guest) -> None:
    guest.say(wire.RST)
    guest.say(wire.RST, kind=2)
    assert guest.talk() == []


@pytest.mark.parametrize(("host", "refuse"), [(PORT, True), (PORT + 1, False), (0, False), (2**32 - 1, False)])
def test_a_port_that_leads_nowhere(guest: Guest, host: int, refuse: bool) -> None:
    guest.refuse = refuse
    guest.say(wire.REQUEST, host=host)
    assert guest.talk() == [rst(host=host)]


@pytest.mark.parametrize(("source", "target"), [(4, 2), (3, 3), (2, 3), (0, 0), (2**64 - 1, 2), (3, 2**64 - 1), (3, 1)])
def test_in_somebody_elses_name(guest: Guest, source: int, target: int) -> None:
    guest.say(wire.REQUEST, source=source, target=target)
    host = guest.connect()
    guest.say(wire.RW, b"forged", source=source, target=target)
    guest.say(wire.RST, source=source, target=target)
    assert (read(host), guest.talk(), guest.device.dropped) == (b"", [], 3)


@pytest.mark.parametrize("kind", [0, 2, 3, 65535])
def test_another_kind_of_socket(guest: Guest, kind: int) -> None:
    guest.say(wire.REQUEST, kind=kind)
    assert [packet[0] for packet in guest.talk()] == [wire.RST]
    assert guest.device.connections == 0


@pytest.mark.parametrize("operation", [0, wire.REQUEST, wire.RESPONSE, 8, 65535])
def test_what_no_open_connection_says(guest: Guest, operation: int) -> None:
    host = guest.connect()
    guest.say(operation)
    assert guest.talk() == [rst()]
    assert host.recv(1) == b""


def test_bytes_after_the_end_or_before_the_beginning(guest: Guest) -> None:
    guest.connect()
    guest.say(wire.SHUTDOWN, flags=wire.SHUT_SEND)
    guest.say(wire.RW, b"more")
    assert guest.talk() == [rst()]
    guest.device.open(77, guest.peer())
    ((_, port, _, _, _),) = guest.talk()
    guest.say(wire.RW, b"early", host=port, guest=77)
    assert guest.talk() == [rst(77, port)]
    assert read(guest.hosts[-1]) == b""


@pytest.mark.parametrize("packet", [b"", b"x" * 43, HEADER.pack(3, 2, 1, 1, 1, 1, wire.RW, 0, 0, 0)])
def test_lengths_that_cannot_be(guest: Guest, packet: bytes) -> None:
    if packet:
        with pytest.raises(VirtqueueError):
            guest.raw(packet)
        return
    ring = guest.rings[wire.TRANSMIT]
    ring.offer(ring.direct([ring.room(64)], 0))  # nothing to read at all
    with pytest.raises(VirtqueueError):
        guest.serve(guest.queues[wire.TRANSMIT])


def test_more_bytes_than_it_says(guest: Guest) -> None:
    host = guest.connect()
    guest.say(wire.RW, b"four and more", length=4)
    assert read(host) == b"four"


@pytest.mark.parametrize("size", [1, 43, 44])
def test_receive_buffers_without_room(guest: Guest, size: int) -> None:
    """For a header they must have some, for bytes some more."""
    guest.say(wire.REQUEST)
    guest.hosts[-1].sendall(b"x")
    ring = guest.rings[wire.RECEIVE]
    for number in range(2):
        ring.offer(ring.direct([ring.room(size)], number))
    with pytest.raises(VirtqueueError):
        guest.serve(guest.queues[wire.RECEIVE])


def test_refusals_that_nobody_fetches(guest: Guest) -> None:
    """They are bounded: the transmit queue waits, and goes on when the guest reads."""
    ring = guest.rings[wire.TRANSMIT]
    for number in range(1200):
        ring.free = guest._start_out
        head = HEADER.pack(CID, HOST_CID, number, 1, 0, wire.STREAM, wire.REQUEST, 0, 0, 0)
        ring.offer(ring.direct([ring.place(head)], 0))
        guest.serve(guest.queues[wire.TRANSMIT])
        if not ring.finished():
            break
    else:
        raise AssertionError("it took them all")
    assert number == 1024
    assert len(guest.talk()) >= 1024
    assert ring.finished(), "the one that waited"


def test_connections_that_are_reset_before_the_guest_hears_of_them(guest: Guest) -> None:
    """A guest that gives no buffers cannot make the device keep what is over."""
    guest.say(wire.REQUEST)  # its answer is what the others wait behind
    for number in range(500):
        guest.say(wire.REQUEST, guest=number)
        guest.hosts.pop().close()
        guest.say(wire.RST, guest=number)
    assert guest.device.connections == len(guest.device._owing) == len(guest.device._ready) == 1
    assert guest.talk() == [(wire.RESPONSE, PORT, GUEST, 0, b"")]
    guest.connect(GUEST + 1)


def test_as_many_connections_as_there_can_be(guest: Guest) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("no room for 2,048 descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    try:
        for number in range(MAX_CONNECTIONS + 2):
            guest.say(wire.REQUEST, guest=number)
        assert guest.device.connections == MAX_CONNECTIONS
        answers = guest.talk()
        assert [packet[2] for packet in answers if packet[0] == wire.RST] == [MAX_CONNECTIONS, MAX_CONNECTIONS + 1]
        peer = guest.peer()
        assert not guest.device.open(77, peer)
        peer.close()
        guest.say(wire.SHUTDOWN, guest=5, flags=wire.SHUT_BOTH)
        guest.say(wire.REQUEST, guest=5000)
        assert guest.device.connections == MAX_CONNECTIONS
    finally:
        guest.device.reset()
        for host in guest.hosts:
            host.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_reset_forgets_everything(guest: Guest) -> None:
    host = guest.connect()
    guest.device.reset()
    assert host.recv(1) == b""
    assert guest.device.connections == 0
    guest.connect()
