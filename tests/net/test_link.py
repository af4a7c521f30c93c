"""Cables of the caller's, on real sockets and a real tap device: frames there and back, full queues, ends."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykrun.errors import UsageError
from pykrun.host.sockets import widen
from pykrun.loop import Loop
from pykrun.net.link import VFKIT, Cabled, Link, address_of, plug_in
from pykrun.net.stream import LENGTH
from pykrun.virtio.net import HEAD
from tests.support.command import ROOT


def frame(size: int, seed: int = 0) -> bytes:
    """To an address that passt's border would refuse."""
    content = bytearray(random.Random(seed).randbytes(size))
    content[12:14] = b"\x08\x00"
    content[30:34] = b"\x7f\0\0\1"[: len(content[30:34])]
    return bytes(content)


class End:
    """A link as a network card uses it, and a loop to turn."""

    def __init__(self, link: Link) -> None:
        self.loop = Loop()
        self.ends: list[str] = []
        self.frames: list[bytes] = []
        self.rooms = 0
        self.taking = True
        self.cable: Cabled = plug_in(self.loop, link, self.ends.append)
        self.cable.on_frame = self.take
        self.cable.on_room = self._on_room

    def _on_room(self) -> None:
        self.rooms += 1

    def take(self) -> None:
        while self.taking and (content := self.cable.frame()) is not None:
            self.frames.append(bytes(content))
            self.cable.take()

    def send(self, content: bytes) -> None:
        rest = memoryview(content)[HEAD:]
        self.cable.send(content[:HEAD], [rest] if rest else [], len(content))
        self.cable.flush()

    def turn(self, condition: Callable[[], object] = lambda: False, seconds: float = 0.02) -> None:
        end = self.loop.call_later(seconds, self.loop.stop)

        def check() -> None:
            if condition():
                self.loop.stop()
            else:
                timers.append(self.loop.call_later(0.001, check))

        timers = [self.loop.call_later(0, check)]
        self.loop.run()
        for timer in (end, *timers):
            timer.cancel()

    def close(self) -> None:
        self.cable.close()
        self.loop.close()


@pytest.fixture
def ends() -> Iterator[list[End]]:
    ends: list[End] = []
    yield ends
    for end in ends:
        end.close()


def pair(kind: int) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    theirs.settimeout(20)
    widen(theirs)
    return ours, theirs


def test_a_stream(ends: list[End]) -> None:
    ours, theirs = pair(socket.SOCK_STREAM)
    with ours, theirs:
        end = End(Link(kind="stream", fd=ours.fileno()))
        ends.append(end)
        assert os.get_blocking(ours.fileno()), "the caller's socket is as it was"
        for size in (14, 60, 1514, 65535):
            end.send(frame(size))
            with theirs.makefile("rb") as file:
                assert file.read(LENGTH.size + size) == LENGTH.pack(size) + frame(size)
            theirs.sendall(LENGTH.pack(size) + frame(size, 1))
        end.turn(lambda: len(end.frames) == 4, 20)
        assert end.frames == [frame(size, 1) for size in (14, 60, 1514, 65535)]
        theirs.sendall(LENGTH.pack(13))
        end.turn(lambda: end.ends, 20)
        assert end.ends == ["the network sent a frame of 13 bytes"]


def test_datagrams(ends: list[End]) -> None:
    ours, theirs = pair(socket.SOCK_DGRAM)
    with ours, theirs:
        end = End(Link(kind="datagram", fd=ours.fileno()))
        ends.append(end)
        for size in (14, 60, 1514, 65535):
            end.send(frame(size))
            assert theirs.recv(1 << 17) == frame(size)
            theirs.send(frame(size, 1))
            theirs.send(b"short")
            theirs.send(bytes(65536))
            end.turn(lambda: len(end.frames) == 1, 20)
            assert end.frames == [frame(size, 1)]
            end.frames.clear()
        assert end.ends == []


def test_datagrams_that_nobody_fetches(ends: list[End]) -> None:
    """The queue of a Unix datagram socket is short: one frame waits here, then the guest's do, in order."""
    ours, theirs = pair(socket.SOCK_DGRAM)
    with ours, theirs:
        end = End(Link(kind="datagram", fd=ours.fileno()))
        ends.append(end)
        sent = 0
        while end.cable.ready and sent < 10_000:
            end.send(frame(30_000, sent))
            sent += 1
        assert sent < 10_000
        got = []
        while len(got) < sent:
            got.append(theirs.recv(1 << 16))
            if not end.cable.ready:
                end.turn()
        assert got == [frame(30_000, number) for number in range(sent)]
        assert (end.rooms, end.cable.ready) == (1, True)


def test_a_card_without_buffers(ends: list[End]) -> None:
    """What nobody takes stays, and nothing spins."""
    ours, theirs = pair(socket.SOCK_DGRAM)
    with ours, theirs:
        end = End(Link(kind="datagram", fd=ours.fileno()))
        ends.append(end)
        end.taking = False
        for number in range(5):
            theirs.send(frame(100, number))
        end.turn()
        assert end.frames == []
        end.taking = True
        end.take()
        assert end.frames == [frame(100, number) for number in range(5)]


def test_the_other_side_goes(ends: list[End]) -> None:
    for kind, number in (("stream", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM)):
        ours, theirs = pair(number)
        with ours:
            end = End(Link(kind=kind, fd=ours.fileno()))
            ends.append(end)
            theirs.close()
            end.send(frame(100))
            end.send(frame(100))
            end.turn(lambda end=end: end.ends, 20)  # type: ignore[misc]
            assert len(end.ends) == 1
            assert end.cable.ready
            end.send(frame(100))
            assert end.cable.frame() is None


def test_by_path(tmp_path: Path, ends: list[End]) -> None:
    """A stream's and a datagram's server; the latter answers to a name that leaves no file."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        listener.bind(str(tmp_path / "stream"))
        listener.listen()
        server.bind(str(tmp_path / "datagram"))
        server.settimeout(20)
        ends.append(End(Link(kind="stream", path=str(tmp_path / "stream"))))
        ends.append(End(Link(kind="datagram", path=str(tmp_path / "datagram"), vfkit=True)))
        with listener.accept()[0] as connection:
            ends[0].send(frame(60))
            assert connection.recv(1000) == LENGTH.pack(60) + frame(60)
        word, sender = server.recvfrom(100)
        assert word == VFKIT
        ends[1].send(frame(60))
        assert server.recvfrom(1000) == (frame(60), sender)
        server.sendto(frame(60, 1), sender)
        ends[1].turn(lambda: ends[1].frames, 20)
        assert ends[1].frames == [frame(60, 1)]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["datagram", "stream"]


def test_another_kind_of_descriptor(ends: list[End], tmp_path: Path) -> None:
    ours, theirs = pair(socket.SOCK_DGRAM)
    with ours, theirs, open(tmp_path / "file", "w") as file, socket.socket() as internet:
        for fd in (ours.fileno(), file.fileno(), internet.fileno()):
            with pytest.raises(UsageError):
                End(Link(kind="stream", fd=fd))


def test_addresses() -> None:
    assert address_of(Link(kind="tap", path="x", mac=b"\x02\0\0\0\0\1")) == b"\x02\0\0\0\0\1"
    one, other = address_of(Link(kind="tap", path="x")), address_of(Link(kind="tap", path="x"))
    assert one != other
    assert one[0] & 3 == 2, "locally administered, not multicast"


TAP = """
import socket, subprocess, sys
sys.path[:0] = sys.argv[1:3]
from pykrun.net.link import Link
from tests.net.test_link import End, frame
end = End(Link(kind="tap", path="tap7"))
end.send(frame(60))                      # its link is down: dropped
subprocess.run("ip link set lo up; ip link set tap7 up", shell=True, check=True)
cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
cable.bind(("tap7", 3))
cable.settimeout(20)
for size in (60, 1514):
    end.send(frame(size))
    while cable.recv(4096) != frame(size):
        pass
    cable.send(frame(size, 1))
    end.turn(lambda: frame(size, 1) in end.frames, 20)
    assert frame(size, 1) in end.frames
end.send(frame(65000))                   # more than it takes
subprocess.run("ip link delete tap7", shell=True, check=True)
end.send(frame(60))
end.turn(lambda: end.ends, 20)
assert len(end.ends) == 1, end.ends
end.close()
print("fine")
"""


@pytest.mark.root
def test_a_tap_device() -> None:
    """In a network namespace of its own."""
    command = ["unshare", "--net", sys.executable, "-c", TAP, str(ROOT / "src"), str(ROOT)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"fine\n"), done.stderr.decode()


def test_another_device_than_a_tap() -> None:
    with pytest.raises(UsageError, match="lo"):
        End(Link(kind="tap", path="lo"))
