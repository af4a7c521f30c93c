"""The network device, with a driver played by hand: frames both ways, full cables, odd buffers, noise."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import pytest

from pykrun.errors import VirtqueueError
from pykrun.virtio import Virtqueue
from pykrun.virtio.net import F_MRG_RXBUF, HEAD, MAX_FRAME, MIN_FRAME, RECEIVE, TRANSMIT, NetDevice
from tests.virtio.driver import Buffer, Driver
from tests.virtio.fuzzing import BLOCK, blocks, resident, time_limit

MAC = bytes.fromhex("525400123456")
HEADER = bytes(12)
SHORT, FULL = 3000, 200_000


class Line:
    """A cable that keeps what is sent, as long as it may, and gives what it was given."""

    def __init__(self) -> None:
        self.on_frame: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None
        self.sent: list[bytes] = []
        self.heads: list[bytes] = []
        self.flushed = 0
        self.room = 1 << 30
        self.coming: deque[bytes] = deque()

    @property
    def ready(self) -> bool:
        return self.room > 0

    def send(self, head: bytes, rest: Sequence[memoryview], size: int) -> None:
        assert self.ready
        frame = b"".join((head, *rest))
        assert len(frame) == size
        assert len(head) >= min(HEAD, size)
        self.sent.append(frame)
        self.heads.append(head)
        self.room -= 1
        self.flushed = 0

    def flush(self) -> None:
        self.flushed += 1

    def frame(self) -> memoryview | None:
        return memoryview(self.coming[0]) if self.coming else None

    def take(self) -> None:
        self.coming.popleft()

    def give(self, *frames: bytes) -> None:
        self.coming += frames
        assert self.on_frame is not None
        self.on_frame()

    def allow(self, frames: int) -> None:
        self.room = frames
        assert self.on_room is not None
        self.on_room()


class Guest:
    """A driver with both rings, and a transport as simple as can be."""

    def __init__(self, *, mergeable: bool = True, event_idx: bool = True, size: int = 64) -> None:
        self.line = Line()
        self.device = NetDevice(self.line, MAC, 65520)
        self.device.accepted(F_MRG_RXBUF if mergeable else 0)
        self.rings = [Driver(size, 4 << 20) for _ in range(2)]
        self.queues: list[Virtqueue] = []
        for index, ring in enumerate(self.rings):
            queue = ring.queue(event_idx=event_idx)
            queue.index = index
            queue.wake = lambda queue=queue: self.serve(queue)  # type: ignore[misc]
            self.queues.append(queue)
            self.device.queue_started(queue)
        self.buffers: dict[int, list[Buffer]] = {}
        self.heads = 0

    def close(self) -> None:
        for queue, ring in zip(self.queues, self.rings, strict=True):
            self.device.queue_stopped(queue)
            queue.stop()
            ring.close()

    def serve(self, queue: Virtqueue) -> None:
        queue.refresh()
        self.device.serve(queue)
        while queue.notify():
            position = queue.position
            self.device.serve(queue)
            if queue.position == position:
                return

    def transmit(self, *pieces: bytes) -> None:
        """Offer a chain of those pieces, the header included."""
        ring = self.rings[TRANSMIT]
        ring.offer(ring.indirect([ring.place(piece) for piece in pieces], ring.index % ring.size))
        self.serve(self.queues[TRANSMIT])

    def post(self, *sizes: int) -> int:
        """Offer one receive buffer of those pieces; return its head."""
        ring = self.rings[RECEIVE]
        head = self.heads % ring.size
        self.buffers[head] = [ring.room(size) for size in sizes]
        ring.offer(ring.indirect(self.buffers[head], head))
        self.heads += 1
        self.serve(self.queues[RECEIVE])
        return head

    def received(self) -> list[bytes]:
        """The frames that arrived, put together as a driver does."""
        ring, frames = self.rings[RECEIVE], []
        finished = ring.finished()
        while finished:
            first, *_ = pieces = [self._content(*finished.pop(0))]
            for _ in range(int.from_bytes(first[10:12], "little") - 1):
                pieces.append(self._content(*finished.pop(0)))
            assert first[:10] == bytes(10)
            frames.append(b"".join(pieces)[12:])
        return frames

    def _content(self, head: int, length: int) -> bytes:
        places = self.buffers.pop(head)
        assert length <= sum(size for _, size, _ in places)
        return b"".join(self.rings[RECEIVE].read(address, size) for address, size, _ in places)[:length]


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


def frame(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def test_configuration() -> None:
    device = NetDevice(Line(), MAC, 65520)
    assert device.config() == MAC + b"\1\0" + b"\1\0" + (65520).to_bytes(2, "little")
    assert (device.device_id, device.queue_count) == (1, 2)
    assert device.features == 1 << 3 | 1 << 5 | 1 << 15 | 1 << 16


# What the guest sends

LAYOUTS: dict[str, list[int]] = {
    "all in one": [12 + 1500],
    "header apart": [12, 1500],
    "header and Ethernet header apart": [12, 14, 1486],
    "headers, then pages": [12 + 66, 4096, 4096],
    "small": [12 + 42],
    "header in pieces": [1, 10, 1, 300],
    "every byte apart, at first": [1] * 30 + [1000],
    "ends within the head": [12, 60, 60],
    "head ends with a piece": [12 + HEAD, 100],
    "smallest": [12 + MIN_FRAME],
    "largest": [12 + 65, 32768, 32702],
}


@pytest.mark.parametrize("pieces", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_frame_arrives_however_it_is_laid_out(guest: Guest, pieces: list[int]) -> None:
    content = frame(sum(pieces))
    ends = [sum(pieces[: number + 1]) for number in range(len(pieces))]
    guest.transmit(*(content[end - size : end] for size, end in zip(pieces, ends, strict=True)))
    assert guest.line.sent == [content[12:]]
    assert guest.line.heads[0] == content[12 : 12 + HEAD]
    assert guest.line.flushed == 1
    assert guest.rings[TRANSMIT].finished() == [(0, 0)]


@pytest.mark.parametrize("size", [1, 11, 12, 12 + MIN_FRAME - 1, 12 + MAX_FRAME + 1, 1 << 20])
def test_what_is_no_frame_is_dropped(guest: Guest, size: int) -> None:
    guest.transmit(frame(size))
    guest.transmit(HEADER, frame(100))
    assert guest.line.sent == [frame(100)]
    assert len(guest.rings[TRANSMIT].finished()) == 2


def test_a_chain_that_is_only_writable_is_dropped(guest: Guest) -> None:
    ring = guest.rings[TRANSMIT]
    ring.offer(ring.direct([ring.room(2000)]))
    guest.serve(guest.queues[TRANSMIT])
    assert guest.line.sent == []
    assert ring.finished() == [(0, 0)]


def test_frames_wait_in_the_ring_while_the_cable_is_full(guest: Guest) -> None:
    guest.line.room = 2
    frames = [frame(100, number) for number in range(5)]
    for content in frames:
        guest.transmit(HEADER, content)
    assert guest.line.sent == frames[:2]
    assert len(guest.rings[TRANSMIT].finished()) == 2
    guest.line.allow(1)
    assert guest.line.sent == frames[:3]
    guest.line.allow(10)
    assert guest.line.sent == frames


def test_what_is_judged_is_what_is_sent(guest: Guest) -> None:
    """The head is a copy: a guest that rewrites its memory changes nothing any more."""
    guest.transmit(HEADER + b"good" * 20)
    guest.rings[TRANSMIT].bytes[guest.rings[TRANSMIT].used + 4096 :] = bytes(
        guest.rings[TRANSMIT].memory_size - guest.rings[TRANSMIT].used - 4096
    )
    assert guest.line.heads == [b"good" * 20]


# What the guest gets


def test_one_buffer(guest: Guest) -> None:
    guest.post(1526)
    guest.line.give(frame(1514))
    assert guest.received() == [frame(1514)]


def test_many_buffers_for_one_frame(guest: Guest) -> None:
    for _ in range(20):
        guest.post(4096)
    guest.line.give(frame(65534), frame(60, 1))
    assert guest.received() == [frame(65534), frame(60, 1)]
    assert len(guest.buffers) == 20 - 17 - 1


def test_a_buffer_of_several_pieces(guest: Guest) -> None:
    guest.post(12, 4, 100, 2000)
    guest.post(5, 7, 3)
    guest.post(4096)
    guest.line.give(frame(900), frame(1000, 1))
    assert guest.received() == [frame(900), frame(1000, 1)]


@pytest.mark.parametrize("event_idx", [True, False])
def test_a_frame_waits_for_buffers(event_idx: bool) -> None:
    guest = Guest(event_idx=event_idx)
    guest.post(1526)
    guest.line.give(frame(4000))
    assert guest.received() == []
    if event_idx:  # all were taken: so a kick comes for the next one
        assert guest.rings[RECEIVE].avail_event == 1
    guest.post(1526)
    assert guest.received() == []
    guest.post(1526)
    assert guest.received() == [frame(4000)]
    guest.close()


def test_frames_arrive_in_order_when_buffers_come_late(guest: Guest) -> None:
    frames = [frame(1000 + number, number) for number in range(30)]
    guest.line.give(*frames)
    received = []
    for _ in range(30):
        guest.post(2048)
        received += guest.received()
    assert received == frames


def test_without_mergeable_buffers_a_frame_needs_one() -> None:
    guest = Guest(mergeable=False)
    guest.post(12, 4096, 4096)
    guest.post(12, 4096, 4096)
    guest.line.give(frame(9000), frame(8192, 1), frame(100, 2))
    assert guest.received() == [frame(8192, 1), frame(100, 2)], "the first is too long for any"
    guest.close()


def test_a_frame_for_too_many_buffers_is_dropped_and_costs_none() -> None:
    guest = Guest(size=128)
    for _ in range(100):
        guest.post(100)
    guest.line.give(frame(7000), frame(3000, 1))
    assert guest.received() == [frame(3000, 1)]
    assert len(guest.buffers) == 100 - 31
    guest.close()


@pytest.mark.parametrize("size", [1, 11])
def test_a_buffer_too_small_for_the_header_stops_the_queue(guest: Guest, size: int) -> None:
    guest.line.coming.append(frame(100))
    with pytest.raises(VirtqueueError, match="receive buffer"):
        guest.post(size)


def test_a_readable_receive_buffer_stops_the_queue(guest: Guest) -> None:
    guest.line.coming.append(frame(100))
    ring = guest.rings[RECEIVE]
    ring.offer(ring.direct([ring.place(bytes(2000))]))
    with pytest.raises(VirtqueueError, match="receive buffer of 0"):
        guest.serve(guest.queues[RECEIVE])


def test_a_stopped_queue_has_used_only_what_it_delivered(guest: Guest) -> None:
    guest.post(1526)
    guest.line.give(frame(1000), frame(4000, 1))
    guest.post(1526)
    guest.post(1526)
    queue, ring = guest.queues[RECEIVE], guest.rings[RECEIVE]
    assert queue.position == 3
    guest.device.queue_stopped(queue)
    assert queue.position == 1
    queue.stop()
    again = guest.queues[RECEIVE] = ring.queue(event_idx=True, position=1)
    again.wake = lambda: guest.serve(again)
    guest.device.queue_started(again)
    guest.serve(again)
    guest.post(4096)
    assert guest.received() == [frame(1000), frame(4000, 1)]


def test_nothing_is_lost_before_the_driver_is_there() -> None:
    line = Line()
    NetDevice(line, MAC, 65520)
    line.give(frame(100))
    assert len(line.coming) == 1


# Noise


class Chaos:
    """Random buffers and frames; what arrives is compared with what was sent."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.guest = Guest(mergeable=chance.random() < 0.8, event_idx=chance.random() < 0.5)
        self.out: list[bytes] = []
        self.inward: list[bytes] = []
        self.received: list[bytes] = []

    def run(self) -> None:
        try:
            for _ in range(self.chance.randrange(1, 12)):
                self.chance.choice((self.transmit, self.post, self.give, self.allow))()
                self.received += self.guest.received()
        except VirtqueueError:
            pass
        left = [content for content in self.out if MIN_FRAME <= len(content) <= MAX_FRAME]
        sent = self.guest.line.sent
        assert sent == left[: len(sent)]
        rest = iter(self.inward)
        assert all(content in rest for content in self.received), "each once, and in order"
        self.guest.close()

    def transmit(self) -> None:
        chance = self.chance
        if self.guest.rings[TRANSMIT].index - self.guest.rings[TRANSMIT].used_index >= 60:
            return
        sizes = [chance.choice((1, 2, 11, 12, 14, 66, 128, 140, 1500, 4096)) for _ in range(chance.randrange(1, 8))]
        pieces = [chance.randbytes(size) for size in sizes]
        self.out.append(b"".join(pieces)[12:])
        self.guest.transmit(*pieces)

    def post(self) -> None:
        chance = self.chance
        sizes = [chance.choice((1, 4, 12, 40, 1526, 4096)) for _ in range(chance.randrange(1, 4))]
        if sum(sizes) < 12 and chance.random() < 0.9:
            sizes.append(12)
        if len(self.guest.buffers) < 60:
            self.guest.heads = next(number for number in range(64) if number not in self.guest.buffers)
            self.guest.post(*sizes)

    def give(self) -> None:
        frames = [self.chance.randbytes(self.chance.choice((14, 60, 1514, 9000))) for _ in range(3)]
        self.inward += frames
        self.guest.line.give(*frames)

    def allow(self) -> None:
        self.guest.line.allow(self.chance.randrange(4))


def fuzz(inputs: int, seconds: int) -> None:
    delivered = sent = size = 0
    with time_limit(seconds):
        for number, (name, chance) in enumerate(blocks(inputs)):
            for _ in range(BLOCK):
                chaos = Chaos(chance)
                try:
                    chaos.run()
                except Exception as error:
                    raise AssertionError(f"block {name}: {error!r}") from error
                delivered += len(chaos.received)
                sent += len(chaos.guest.line.sent)
            if number == 1:
                size = resident()
    assert resident() - size < 16 << 20
    assert delivered > inputs // 4, "most of what it makes is to be right, or it tests little"
    assert sent > inputs


def test_fuzz_short() -> None:
    fuzz(SHORT, 120)


@pytest.mark.full
def test_fuzz_long() -> None:
    fuzz(FULL, 3600)
