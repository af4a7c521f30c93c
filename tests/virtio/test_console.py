"""The multiport console, with a driver played by hand: control messages, bytes both ways, slow sinks, floods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from pykrun.errors import VirtqueueError
from pykrun.virtio import Virtqueue
from pykrun.virtio import console as wire
from pykrun.virtio.console import CONTROL, ConsoleDevice, ConsolePort
from tests.virtio.driver import Driver

CONTROL_RECEIVE, CONTROL_TRANSMIT = 2, 3


class Taker:
    """A sink that takes `limit` bytes in all."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.on_ready: Callable[[], None] | None = None
        self.taken = bytearray()
        self.limit = limit

    def write(self, buffers: Sequence[memoryview]) -> int:
        content = b"".join(buffers)[: self.limit - len(self.taken)]
        self.taken += content
        return len(content)

    def allow(self, more: int) -> None:
        self.limit += more
        assert self.on_ready is not None
        self.on_ready()


class Giver:
    """A source of what it was given."""

    def __init__(self) -> None:
        self.on_ready: Callable[[], None] | None = None
        self.content = bytearray()

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        count = 0
        for view in buffers:
            part = self.content[: len(view)]
            del self.content[: len(part)]
            view[: len(part)] = part
            count += len(part)
        return count

    def give(self, content: bytes) -> None:
        self.content += content
        assert self.on_ready is not None
        self.on_ready()


class Guest:
    """A driver with one ring for each queue of the device, and a transport as simple as can be."""

    def __init__(self, device: ConsoleDevice) -> None:
        self.device = device
        self.rings = [Driver(16, 1 << 18) for _ in range(device.queue_count)]
        self.queues: list[Virtqueue] = []
        self.rooms: list[dict[int, int]] = [{} for _ in self.rings]
        for index, ring in enumerate(self.rings):
            queue = ring.queue(event_idx=True)
            queue.index = index
            queue.wake = lambda queue=queue: self.serve(queue)  # type: ignore[misc]
            self.queues.append(queue)
            device.queue_started(queue)

    def close(self) -> None:
        for queue, ring in zip(self.queues, self.rings, strict=True):
            self.device.queue_stopped(queue)
            queue.stop()
            ring.close()

    def serve(self, queue: Virtqueue) -> None:
        queue.refresh()
        for _ in range(16):
            position = queue.position
            self.device.serve(queue)
            if not queue.notify() or queue.position == position:
                break

    def send(self, index: int, content: bytes, head: int = 0) -> None:
        ring = self.rings[index]
        ring.offer(ring.direct([ring.place(content)], head))
        self.serve(self.queues[index])

    def control(self, port: int, event: int, value: int) -> None:
        self.send(CONTROL_TRANSMIT, CONTROL.pack(port, event, value))
        assert self.rings[CONTROL_TRANSMIT].finished()

    def give_rooms(self, index: int, count: int = 16, size: int = 64) -> None:
        """Make buffers for the device to write into available."""
        ring = self.rings[index]
        for head in range(count):
            room = ring.room(size)
            self.rooms[index][head] = room[0]
            ring.offer(ring.direct([room], head))
        self.serve(self.queues[index])

    def heard(self, index: int) -> list[bytes]:
        """What the device has written into its buffers."""
        ring = self.rings[index]
        return [ring.read(self.rooms[index][head], length) for head, length in ring.finished()]

    def messages(self) -> list[tuple[int, int, int, bytes]]:
        return [(*CONTROL.unpack_from(message), message[8:]) for message in self.heard(CONTROL_RECEIVE)]


@pytest.fixture
def sink() -> Taker:
    return Taker()


@pytest.fixture
def source() -> Giver:
    return Giver()


@pytest.fixture
def guest(sink: Taker, source: Giver) -> Iterator[Guest]:
    """Port 0 is the console, port 1 ours, port 2 has nothing at its end."""
    ports = [
        ConsolePort("", Taker(), Giver(), console=True),
        ConsolePort("krun-test", sink, source),
        ConsolePort("dead"),
    ]
    guest = Guest(ConsoleDevice(ports))
    yield guest
    guest.close()


TEST_RECEIVE, TEST_TRANSMIT = 4, 5  # port 1
DEAD_TRANSMIT = 7


def test_config_and_features(guest: Guest) -> None:
    assert guest.device.config() == bytes(4) + b"\3\0\0\0" + bytes(4)
    assert guest.device.features == wire.F_MULTIPORT
    assert guest.device.queue_count == 8
    assert ConsoleDevice([ConsolePort("only")]).features == wire.F_MULTIPORT


def test_ports_are_introduced(guest: Guest) -> None:
    guest.give_rooms(CONTROL_RECEIVE)
    guest.control(0, wire.DEVICE_READY, 1)
    assert guest.messages() == [(number, wire.PORT_ADD, 1, b"") for number in range(3)]
    guest.control(1, wire.PORT_READY, 1)
    assert guest.messages() == [(1, wire.PORT_NAME, 1, b"krun-test\0"), (1, wire.PORT_OPEN, 1, b"")]
    guest.control(0, wire.PORT_READY, 1)
    assert guest.messages() == [(0, wire.CONSOLE_PORT, 1, b""), (0, wire.PORT_OPEN, 1, b"")]


def test_owed_messages_wait_for_buffers(guest: Guest) -> None:
    guest.control(0, wire.DEVICE_READY, 1)
    guest.control(1, wire.PORT_READY, 1)
    guest.give_rooms(CONTROL_RECEIVE, 4)
    assert [event for _, event, _, _ in guest.messages()] == [wire.PORT_ADD] * 3 + [wire.PORT_NAME]
    guest.give_rooms(CONTROL_RECEIVE, 4)
    assert [event for _, event, _, _ in guest.messages()] == [wire.PORT_OPEN]


def test_a_reset_closes_the_ports(guest: Guest, source: Giver) -> None:
    guest.control(1, wire.PORT_OPEN, 1)
    guest.device.reset()
    guest.give_rooms(TEST_RECEIVE)
    source.give(b"for the next driver")
    assert guest.heard(TEST_RECEIVE) == []


def test_bytes_to_the_sink(guest: Guest, sink: Taker) -> None:
    guest.send(TEST_TRANSMIT, b"hello ")
    guest.send(TEST_TRANSMIT, b"world")
    assert sink.taken == b"hello world"
    assert len(guest.rings[TEST_TRANSMIT].finished()) == 2


def test_a_port_without_a_sink_drops(guest: Guest) -> None:
    guest.send(DEAD_TRANSMIT, b"nobody reads this")
    assert len(guest.rings[DEAD_TRANSMIT].finished()) == 1


def test_a_slow_sink_holds_the_guest_back_and_loses_nothing(guest: Guest, sink: Taker) -> None:
    ring = guest.rings[TEST_TRANSMIT]
    sink.limit = 3
    head = ring.indirect([ring.place(b"abcd"), ring.place(b"efgh"), ring.place(b"ijkl")])
    second = ring.direct([ring.place(b"mnop")], 1)
    ring.offer(head, second)
    guest.serve(guest.queues[TEST_TRANSMIT])
    assert (bytes(sink.taken), ring.finished()) == (b"abc", [])
    guest.serve(guest.queues[TEST_TRANSMIT])  # a kick changes nothing
    sink.allow(4)
    assert (bytes(sink.taken), ring.finished()) == (b"abcdefg", [])
    sink.allow(6)
    assert (bytes(sink.taken), ring.finished()) == (b"abcdefghijklm", [(0, 0)])
    sink.allow(100)
    assert (bytes(sink.taken), ring.finished()) == (b"abcdefghijklmnop", [(1, 0)])


def test_bytes_from_the_source_wait_for_the_port_to_be_open(guest: Guest, source: Giver) -> None:
    guest.give_rooms(TEST_RECEIVE, 8, 4)
    source.give(b"0123456789")
    assert guest.heard(TEST_RECEIVE) == []
    guest.control(1, wire.PORT_OPEN, 1)
    assert guest.heard(TEST_RECEIVE) == [b"0123", b"4567", b"89"]
    source.give(b"ab")
    assert guest.heard(TEST_RECEIVE) == [b"ab"]
    assert not source.content


def test_bytes_from_the_source_wait_for_buffers(guest: Guest, source: Giver) -> None:
    guest.control(1, wire.PORT_OPEN, 1)
    source.give(b"0123456789")
    guest.give_rooms(TEST_RECEIVE, 2, 4)
    assert guest.heard(TEST_RECEIVE) == [b"0123", b"4567"]
    assert source.content == b"89"
    guest.give_rooms(TEST_RECEIVE, 2, 4)
    assert guest.heard(TEST_RECEIVE) == [b"89"]
    source.give(b"and more")
    assert guest.heard(TEST_RECEIVE) == [b"and "]


def test_closing_stops_the_source(guest: Guest, source: Giver) -> None:
    guest.control(1, wire.PORT_OPEN, 1)
    guest.give_rooms(TEST_RECEIVE)
    guest.control(1, wire.PORT_OPEN, 0)
    source.give(b"for the next one")
    assert guest.heard(TEST_RECEIVE) == []
    guest.control(1, wire.PORT_OPEN, 1)
    assert guest.heard(TEST_RECEIVE) == [b"for the next one"]


def test_a_flood_of_control_messages_is_held_back(guest: Guest) -> None:
    """A guest that asks and never listens is not listened to any more; nothing grows."""
    ring = guest.rings[CONTROL_TRANSMIT]
    ready = ring.place(CONTROL.pack(0, wire.DEVICE_READY, 1))
    for head in range(16):
        ring.direct([ready], head)
    taken = 0
    free = list(range(16))
    for _ in range(1000):
        if free:
            ring.offer(*free)
        guest.serve(guest.queues[CONTROL_TRANSMIT])
        free = [head for head, _ in ring.finished()]
        taken += len(free)
        if not free:
            break
    assert taken < 200
    assert len(guest.device._owed) < 300
    before = taken
    heard = 0
    guest.give_rooms(CONTROL_RECEIVE)
    while ended := guest.rings[CONTROL_RECEIVE].finished():  # once it listens, so do we
        heard += len(ended)
        guest.rings[CONTROL_RECEIVE].offer(*(head for head, _ in ended))
        guest.serve(guest.queues[CONTROL_RECEIVE])
    taken += len(ring.finished())
    assert heard == 3 * taken
    assert taken == before + 16


@pytest.mark.parametrize(
    ("port", "event", "value"),
    [
        (3, wire.PORT_READY, 1),
        (2**32 - 1, wire.PORT_OPEN, 1),
        (1, 99, 1),
        (1, wire.PORT_READY, 0),
        (0, wire.DEVICE_READY, 0),
    ],
)
def test_messages_about_nothing_are_ignored(guest: Guest, source: Giver, port: int, event: int, value: int) -> None:
    guest.give_rooms(CONTROL_RECEIVE)
    guest.give_rooms(TEST_RECEIVE)
    guest.control(port, event, value)
    source.give(b"to nobody")
    assert (guest.messages(), guest.heard(TEST_RECEIVE)) == ([], [])


def test_a_control_message_may_be_scattered_and_longer(guest: Guest, source: Giver) -> None:
    guest.give_rooms(TEST_RECEIVE)
    ring = guest.rings[CONTROL_TRANSMIT]
    message = CONTROL.pack(1, wire.PORT_OPEN, 1) + b"more"
    ring.offer(ring.direct([ring.place(message[:3]), ring.place(message[3:7]), ring.place(message[7:])]))
    guest.serve(guest.queues[CONTROL_TRANSMIT])
    source.give(b"open")
    assert guest.heard(TEST_RECEIVE) == [b"open"]


def test_a_short_control_message_breaks_the_queue(guest: Guest) -> None:
    ring = guest.rings[CONTROL_TRANSMIT]
    ring.offer(ring.direct([ring.place(b"1234567")]))
    with pytest.raises(VirtqueueError, match="7 bytes"):
        guest.serve(guest.queues[CONTROL_TRANSMIT])


def test_buffers_of_the_wrong_direction_do_no_harm(guest: Guest, sink: Taker, source: Giver) -> None:
    transmit, receive = guest.rings[TEST_TRANSMIT], guest.rings[TEST_RECEIVE]
    transmit.offer(transmit.direct([transmit.room(8)]))
    guest.serve(guest.queues[TEST_TRANSMIT])
    assert transmit.finished() == [(0, 0)]
    guest.control(1, wire.PORT_OPEN, 1)
    receive.offer(receive.direct([receive.place(b"to read")]))
    source.give(b"data")
    guest.serve(guest.queues[TEST_RECEIVE])
    guest.give_rooms(CONTROL_RECEIVE, 4, 2)  # too small for a message
    guest.control(0, wire.DEVICE_READY, 1)
    assert [len(message) for message in guest.heard(CONTROL_RECEIVE)] == [2, 2, 2]


def test_stop_while_a_chain_waits_for_the_sink(sink: Taker) -> None:
    guest = Guest(ConsoleDevice([ConsolePort("krun-test", sink)]))
    sink.limit = 2
    guest.send(1, b"abcd")
    guest.device.queue_stopped(guest.queues[1])
    guest.queues[1].notify()
    assert guest.rings[1].finished() == [(0, 0)]
    sink.allow(100)
    assert sink.taken == b"ab"
    guest.device.queue_started(guest.queues[1])
    guest.send(1, b"next")
    assert sink.taken == b"abnext"
    guest.close()


@pytest.mark.parametrize(
    "ports", [[], [ConsolePort("")], [ConsolePort("x" * 65)], [ConsolePort("a\0b")], [ConsolePort("x")] * 32]
)
def test_wrong_ports(ports: list[ConsolePort]) -> None:
    with pytest.raises(ValueError, match="port"):
        ConsoleDevice(ports)


def introduce(guest: Guest, port: int) -> list[tuple[int, int, int, bytes]]:
    """Have a port told of; return what the device said, but PORT_ADD."""
    guest.control(port, wire.PORT_READY, 1)
    return [message for message in guest.messages() if message[1] != wire.PORT_ADD]


def test_a_console_may_have_a_name_and_a_size() -> None:
    window = [(33, 99)]
    guest = Guest(ConsoleDevice([ConsolePort("screen", console=True, window=lambda: window[0])]))
    guest.give_rooms(CONTROL_RECEIVE)
    assert guest.device.features == wire.F_MULTIPORT | wire.F_SIZE
    assert introduce(guest, 0) == [
        (0, wire.CONSOLE_PORT, 1, b""),
        (0, wire.PORT_NAME, 1, b"screen\0"),
        (0, wire.PORT_OPEN, 1, b""),
        (0, wire.RESIZE, 1, wire.SIZE.pack(99, 33)),
    ]
    guest.control(0, wire.PORT_OPEN, 1)
    window[0] = (24, 80)
    guest.device.resized()
    assert guest.messages() == [(0, wire.RESIZE, 1, wire.SIZE.pack(80, 24))]
    guest.close()


def test_the_end_of_a_port_that_is_only_read() -> None:
    port = ConsolePort("input", source=Giver())
    guest = Guest(ConsoleDevice([port]))
    guest.give_rooms(CONTROL_RECEIVE)
    introduce(guest, 0)
    guest.control(0, wire.PORT_OPEN, 1)
    guest.device.end_input(port)
    assert guest.messages() == [(0, wire.PORT_OPEN, 0, b"")]
    guest.device.reset()
    assert (0, wire.PORT_OPEN, 0, b"") in introduce(guest, 0), "the next driver finds the same"
    guest.close()


def test_consoles_of_a_later_device_come_later() -> None:
    """Linux numbers consoles as it hears of them, and works for several devices at a time."""
    early = Guest(ConsoleDevice([ConsolePort("", console=True), ConsolePort("", console=True)]))
    late = Guest(ConsoleDevice([ConsolePort("", console=True)], after=early.device))
    for guest in (early, late):
        guest.give_rooms(CONTROL_RECEIVE)
    late.control(0, wire.DEVICE_READY, 1)
    assert late.messages() == []
    early.control(0, wire.DEVICE_READY, 1)
    early.control(0, wire.PORT_OPEN, 1)
    assert late.messages() == []
    early.control(1, wire.PORT_OPEN, 1)
    assert late.messages() == [(0, wire.PORT_ADD, 1, b"")]
    late.control(0, wire.DEVICE_READY, 1)  # once more: nothing to wait for any longer
    assert late.messages() == [(0, wire.PORT_ADD, 1, b"")]
    for guest in (early, late):
        guest.close()
