"""The cable to passt: frames on a real socket, full and broken ones, and a reader as particular as passt of 2023."""

from __future__ import annotations

import hashlib
import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pykrun.loop import Loop
from pykrun.net import FrameStream, make_pair
from pykrun.virtio.net import HEAD

ARP = bytes(12) + b"\x08\x06"
"""What every frame here begins with, so that it may leave."""

LARGEST_READ = 8323069  # passt's TAP_BUF_FILL


def frame(size: int, seed: int = 0) -> bytes:
    return ARP + random.Random(seed).randbytes(size - len(ARP))


class End:
    """A stream with passt's end of its socket, and a loop to turn."""

    def __init__(self) -> None:
        self.loop = Loop()
        ours, self.peer = make_pair()
        self.ends: list[str] = []
        self.stream = FrameStream(self.loop, ours, self.ends.append)
        self.frames: list[bytes] = []
        self.taking = True
        self.rooms = 0
        self.stream.on_frame = self.take
        self.stream.on_room = self._on_room

    def _on_room(self) -> None:
        self.rooms += 1

    def take(self) -> None:
        while self.taking and (content := self.stream.frame()) is not None:
            self.frames.append(bytes(content))
            self.stream.take()

    def send(self, content: bytes, pieces: int = 1) -> None:
        rest = memoryview(content)[HEAD:]
        size = -(-len(rest) // pieces) or 1
        views = [rest[at : at + size] for at in range(0, len(rest), size)]
        self.stream.send(content[:HEAD], views, len(content))

    def turn(self, condition: Callable[[], object] | None = None, seconds: float = 10) -> None:
        """Turn the loop until the condition holds; without one, until there is nothing more to do at once."""
        end = self.loop.call_later(seconds if condition else 0.01, self.loop.stop)

        def check() -> None:
            if condition and condition():
                self.loop.stop()
            elif condition:
                checks.append(self.loop.call_later(0.001, check))

        checks = [self.loop.call_later(0, check)]
        self.loop.run()
        for timer in (end, *checks):
            timer.cancel()
        assert condition is None or condition()

    def close(self) -> None:
        self.stream.close()
        self.peer.close()
        self.loop.close()


@pytest.fixture
def end() -> Iterator[End]:
    end = End()
    yield end
    end.close()


def framed(*frames: bytes) -> bytes:
    return b"".join(len(content).to_bytes(4, "big") + content for content in frames)


# From the guest


def test_frames_go_out_behind_their_lengths(end: End) -> None:
    frames = [frame(size, size) for size in (14, 60, 4096, 4097, 65535, 200)]
    for content in frames:
        end.send(content, pieces=3)
    end.stream.flush()
    expected = framed(*frames)
    assert end.peer.recv(1 << 20, socket.MSG_WAITALL | socket.MSG_DONTWAIT)[: len(expected)] == expected


def test_small_frames_share_a_call_but_none_waits_after_the_flush(end: End) -> None:
    for number in range(10):
        end.send(frame(100, number))
    with pytest.raises(BlockingIOError):
        end.peer.recv(1 << 20, socket.MSG_DONTWAIT)
    end.stream.flush()
    assert end.peer.recv(1 << 20, socket.MSG_DONTWAIT) == framed(*(frame(100, number) for number in range(10)))


def test_a_frame_of_a_thousand_pieces(end: End) -> None:
    end.send(frame(60000), pieces=1200)
    assert end.peer.recv(1 << 20, socket.MSG_DONTWAIT) == framed(frame(60000))


def test_what_the_socket_does_not_take_waits_and_is_bounded(end: End) -> None:
    sent: list[bytes] = []
    while end.stream.ready:
        sent.append(frame(60000, len(sent)))
        end.send(sent[-1])
        assert len(sent) < 10000
    assert sum(map(len, end.stream._unsent)) <= 32768 + 65539
    received = bytearray()

    def read() -> bool:
        try:
            received.extend(end.peer.recv(1 << 20, socket.MSG_DONTWAIT))
        except BlockingIOError:
            pass
        return end.stream.ready

    end.turn(read)
    assert end.rooms == 1
    while len(received) < len(framed(*sent)):
        received.extend(end.peer.recv(1 << 20, socket.MSG_DONTWAIT))
    assert received == framed(*sent)


class Particular:
    """A process that reads as passt of 2023 does: see `pykrun.net.stream`."""

    def __init__(self, peer: socket.socket) -> None:
        self._said, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.closerange(3, min(peer.fileno(), writer))
            os.closerange(max(peer.fileno(), writer) + 1, 1 << 16)
            try:
                verdict = self._read(peer)
            except BaseException as error:
                verdict = repr(error)
            os.write(writer, verdict.encode())
            os._exit(0)
        os.close(writer)
        peer.close()

    def verdict(self) -> str:
        """How it lost its place, or a digest of all frames; waits for its end."""
        with open(self._said) as said:
            verdict = said.read()
        os.waitpid(self._pid, 0)
        return verdict

    def _read(self, peer: socket.socket) -> str:
        digest = hashlib.sha256()
        peer.setblocking(True)
        while True:
            select.select([peer], [], [])
            got = peer.recv(LARGEST_READ, socket.MSG_DONTWAIT)
            if not got:
                return digest.hexdigest()
            while got:
                if len(got) <= 4:
                    return f"{len(got)} bytes left over"
                size = int.from_bytes(got[:4], "big")
                got = got[4:]
                if size > len(got):
                    rest = peer.recv(size - len(got))
                    if len(got) + len(rest) != size:
                        return f"{len(rest)} of {size - len(got)} bytes came at once"
                    got += rest
                digest.update(got[:size])
                got = got[size:]


MIXES = {"all": (66, 1514, 65534), "around a buffer": (40000, 70, 70, 36700)}


@pytest.mark.parametrize("sizes", MIXES.values(), ids=MIXES.keys())
def test_a_particular_reader_never_loses_its_place(sizes: tuple[int, ...]) -> None:
    """One that is as fast as the writer, so that it sees every gap, and at times slower."""
    end = End()
    reader = Particular(end.peer)
    chance = random.Random(len(sizes))
    digest = hashlib.sha256()
    for number in range(1500):
        content = ARP + number.to_bytes(8, "big") + bytes(chance.choice(sizes) - 22)
        digest.update(content)
        if not end.stream.ready:
            end.turn(lambda: end.stream.ready)
        end.send(content, pieces=4)
        if chance.random() < 0.3:
            end.stream.flush()
    end.stream.flush()
    end.turn(lambda: end.stream.ready)
    end.stream.close()
    assert reader.verdict() == digest.hexdigest()
    end.close()


def test_the_particular_reader_loses_it_otherwise() -> None:
    """The test of the test: a stream of bytes like any other."""
    ours, peer = socket.socketpair()
    reader = Particular(peer)
    content = framed(frame(65534))
    try:
        for number in range(300):
            for piece in (content[: 20000 + number], content[20000 + number : 40000], content[40000:]):
                ours.sendall(piece)
                time.sleep(0.0005)
    except OSError:
        pass
    ours.close()
    assert "bytes" in reader.verdict()


def test_a_call_holds_whole_small_frames_or_one_large_one() -> None:
    """On a socket that keeps calls apart."""
    loop, ends = Loop(), list[str]()
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    stream = FrameStream(loop, ours, ends.append)
    chance = random.Random(7)
    sent: list[bytes] = []
    calls: list[bytes] = []
    for _ in range(400):
        sent.append(frame(chance.choice((14, 66, *[1514] * 20, *[4096] * 20, 4097, 20000, 65535)), len(sent)))
        stream.send(sent[-1][:HEAD], [memoryview(sent[-1])[HEAD:]], len(sent[-1]))
        while select.select([peer], [], [], 0)[0]:
            calls.append(peer.recv(1 << 17))
    stream.flush()
    calls.append(peer.recv(1 << 17))
    for call in calls:
        frames = []
        rest = call
        while rest:
            size = int.from_bytes(rest[:4], "big")
            frames.append(rest[4 : 4 + size])
            rest = rest[4 + size :]
        assert b"".join(frames) == b"".join(sent[: len(frames)])
        del sent[: len(frames)]
        assert len(call) <= 32768 or len(frames) == 1
    assert not sent
    stream.close()
    peer.close()
    loop.close()


def test_passts_second_call_waits_for_all_it_asks_for(end: End) -> None:
    got: list[bytes] = []
    end.peer.setblocking(True)
    reader = threading.Thread(target=lambda: got.append(end.peer.recv(65535)))
    reader.start()
    end.send(frame(20000))
    end.send(frame(30000))
    reader.join(0.1)
    assert got == []
    end.send(frame(40000))
    reader.join(10)
    assert len(got[0]) == 65535


# To the guest


@pytest.mark.parametrize("piece", [1, 3, 1000, 1 << 20])
def test_frames_come_in_however_they_are_cut(end: End, piece: int) -> None:
    frames = [frame(size, size) for size in ((14, 60, 300) if piece < 1000 else (14, 65535, 9000, 65535))]
    content = framed(*frames)
    for at in range(0, len(content), piece):
        end.peer.sendall(content[at : at + piece])
        if piece < 1000:
            end.turn()
    end.turn(lambda: len(end.frames) == len(frames))
    assert end.frames == frames


def test_a_guest_that_takes_nothing_stops_the_other_side(end: End) -> None:
    end.taking = False
    end.peer.setblocking(False)
    sent = 0
    frames = []
    content = framed(frame(60000))
    while sent < 64 << 20:
        try:
            count = end.peer.send(content)
        except BlockingIOError:
            break
        frames.append(count)
        sent += count
        end.turn()
    assert sent < 16 << 20, "it is bounded"
    end.taking = True
    end.take()
    end.peer.setblocking(True)
    if frames[-1] < len(content):
        rest = content[frames[-1] :]
        writer = threading.Thread(target=end.peer.sendall, args=(rest,))
        writer.start()
        end.turn(lambda: len(end.frames) == len(frames))
        writer.join(10)
    end.turn(lambda: len(end.frames) == len(frames))
    assert set(end.frames) == {frame(60000)}


@pytest.mark.parametrize("size", [0, 13, 65536, 0xFFFFFFFF])
def test_what_is_no_frame_ends_it(end: End, size: int) -> None:
    end.peer.sendall(framed(frame(100)) + size.to_bytes(4, "big") + bytes(100))
    end.turn(lambda: end.ends)
    assert end.frames == [frame(100)]
    assert end.ends == [f"passt sent a frame of {size} bytes"]


def test_the_end_of_the_other_side(end: End) -> None:
    end.peer.sendall(framed(frame(100)) + b"\0\0")
    end.peer.close()
    end.turn(lambda: end.ends)
    assert (end.frames, end.ends) == ([frame(100)], [""])
    assert end.stream.ready
    end.send(frame(100))  # everything is taken, and dropped
    end.send(frame(60000))
    end.stream.flush()
    assert end.stream.frame() is None
    assert end.rooms == 1


def test_the_end_while_much_is_unsent(end: End) -> None:
    while end.stream.ready:
        end.send(frame(60000))
    end.peer.close()
    end.turn(lambda: end.ends)
    assert end.stream.ready
    assert end.rooms == 1
