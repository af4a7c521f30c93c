"""The guest's clock against what a host may say; the clock is a number here, this machine's stays what it is."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krun_init import _linux, switches, timesync
from krun_init.log import Log
from krun_init.loop import Loop
from krun_init.places import Places
from krun_init.timesync import Clock, Receiver
from tests.guest.machine import LOG, REBOOTED, STARTED, TIME, Machine

NOW = (switches.BUILT + 86400) * 10**9
MS = 10**6
PORT = timesync.PORT


class StillPlaces(Places):
    """A clock that stands at `now` until it is set."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now
        self.steps: list[int] = []
        self.error: OSError | None = None

    def clock(self) -> int:
        return self.now

    def set_clock(self, now: int) -> None:
        if self.error is not None:
            raise self.error
        self.now = now
        self.steps.append(now)


class Lines(Log):
    """Keeps what would go to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []

    def line(self, level: int, text: str) -> None:
        self.lines.append((level, text))


class World:
    """A clock and the host's end of what it listens to."""

    def __init__(self, kind: socket.SocketKind) -> None:
        self.places, self.log, self.loop = StillPlaces(), Lines(), Loop()
        self.clock = Clock(self.places, self.log)
        self.host, ours = socket.socketpair(socket.AF_UNIX, kind)
        ours.setblocking(False)
        self.receiver = Receiver(self.loop, ours.detach(), kind == socket.SOCK_DGRAM, self.clock)

    def say(self, *pieces: bytes) -> list[int]:
        """The steps that the clock took."""
        for piece in pieces:
            self.host.send(piece)
            self.turn()
        return self.places.steps

    def turn(self) -> None:
        self.loop.after("enough", 0, lambda: None)
        self.loop.turn()

    def close(self) -> None:
        self.host.close()
        for _ in range(3):
            if not self.receiver.closed:
                self.turn()


@pytest.fixture
def stream() -> Iterator[World]:
    world = World(socket.SOCK_STREAM)
    world.turn()
    assert world.host.recv(100) == b"\0"  # it asks once
    world.clock.asked = 0
    yield world
    world.close()


@pytest.fixture
def datagrams() -> Iterator[World]:
    world = World(socket.SOCK_DGRAM)
    yield world
    world.close()


def record(nanoseconds: int) -> bytes:
    return struct.pack("<Q", nanoseconds)


# ---- what makes a step


@pytest.mark.parametrize(
    ("off", "steps"),
    [(0, 0), (99, 0), (100, 0), (101, 1), (-100, 0), (-101, 1), (10**9, 1), (-(10**6), 1)],
)
def test_steps_go_both_ways_beyond_the_threshold(off: int, steps: int) -> None:
    """Milliseconds that the host is ahead."""
    places, log = StillPlaces(), Lines()
    Clock(places, log).hear(NOW + off * MS)
    assert places.steps == [NOW + off * MS] * steps
    assert len(log.lines) == (steps if off < 0 else 0)
    if off == -(10**6):
        assert log.lines == [(2, "the clock was set back by 1000.0 s")]


@pytest.mark.parametrize(
    "host", [0, 1, switches.BUILT * 10**9 - 1, 1 << 63, (1 << 64) - 1], ids=["0", "1", "before", "2^63", "2^64"]
)
def test_impossible_times_are_refused_and_told_once(host: int) -> None:
    places, log = StillPlaces(), Lines()
    clock = Clock(places, log)
    for _ in range(3):
        clock.hear(host)
    assert places.steps == []
    assert log.lines == [(1, f"the host's clock was refused: {host // 10**9} seconds since the epoch")]
    clock.hear(NOW + 10**9)
    assert places.steps == [NOW + 10**9]


def test_the_day_of_the_build_is_the_first_that_counts() -> None:
    places = StillPlaces()
    Clock(places, Lines()).hear(switches.BUILT * 10**9)
    assert places.steps == [switches.BUILT * 10**9]


def test_a_clock_that_cannot_be_set() -> None:
    places, log = StillPlaces(), Lines()
    places.error = PermissionError(1, "Operation not permitted")
    clock = Clock(places, log)
    for _ in range(3):
        clock.hear(NOW + 10**9)
    assert log.lines == [(1, "the clock cannot be set: Operation not permitted")]


def test_an_answer_that_waited_explains_its_age() -> None:
    """The guest asked two seconds ago: any time from the answer's to two seconds later may be right."""
    for ahead, steps in ((-200, 1), (0, 0), (1900, 0), (2500, 1)):
        places = StillPlaces()
        clock = Clock(places, Lines())
        clock.asked = time.monotonic_ns() - 2 * 10**9
        clock.hear(NOW - ahead * MS)
        assert len(places.steps) == steps, ahead
        if steps:  # the middle
            assert abs(places.now - (NOW - ahead * MS + 10**9)) < 50 * MS
        clock.hear(places.now - 200 * MS)  # and from now on they count as fresh
        assert len(places.steps) == steps + 1


# ---- records of a stream


def test_whole_records(stream: World) -> None:
    assert stream.say(record(NOW + 10**9), record(NOW)) == [NOW + 10**9, NOW]


def test_only_the_newest_of_several_counts(stream: World) -> None:
    assert stream.say(record(NOW + 5 * 10**9) + record(NOW + 6 * 10**9) + record(NOW + 7 * 10**9)) == [NOW + 7 * 10**9]


def test_one_that_waited_in_many_buffers(stream: World) -> None:
    """As a port has them: one read brings one."""
    for second in range(5):
        stream.host.send(record(NOW + second * 10**9))
    stream.turn()
    assert stream.places.steps == [NOW + 4 * 10**9]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 6))
def test_records_however_they_are_cut(cuts: list[int], count: int) -> None:
    world = World(socket.SOCK_STREAM)
    try:
        world.turn()
        world.clock.asked = 0
        sent = b"".join(record(NOW + (number + 1) * 10**9) for number in range(count))
        rest, seen = sent, 0
        for cut in cuts:
            piece, rest = rest[:cut], rest[cut:]
            seen += len(piece)
            if piece:
                world.say(piece)
            assert world.places.now == NOW + seen // 8 * 10**9
        if rest:
            world.say(rest)
        assert world.places.now == NOW + count * 10**9
    finally:
        world.close()


def test_the_end_of_the_stream_ends_it(stream: World) -> None:
    stream.say(record(NOW))
    stream.host.close()
    stream.turn()
    assert stream.receiver.closed


def test_a_port_that_nobody_opens_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a pipe without a writer, a virtio port without its host reads as ended, and poll says that it hung up."""
    monkeypatch.setattr(timesync, "_UNCONNECTED", 0.002)
    loop, (reader, writer) = Loop(), os.pipe2(os.O_NONBLOCK)
    os.close(writer)
    receiver = Receiver(loop, reader, False, Clock(StillPlaces(), Lines()))
    began = time.monotonic()
    while not receiver.closed:
        loop.turn()
    assert timesync._LOOKS * 0.002 <= time.monotonic() - began < 10


# ---- datagrams


def test_datagrams_of_eight_bytes_count_and_no_others(datagrams: World) -> None:
    good = record(NOW + 10**9)
    assert datagrams.say(b"", b"1", good[:7], good + b"\0", good * 2, os.urandom(5000)) == []
    assert datagrams.say(good, b"x" * 9, record(NOW)) == [NOW + 10**9, NOW]
    assert not datagrams.receiver.closed


def test_an_error_of_the_socket_ends_it(datagrams: World) -> None:
    datagrams.say(record(NOW))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind("")
        os.write(datagrams.receiver._fd, b"unread")
        datagrams.host.connect(other.getsockname())  # our end gets ECONNRESET
        datagrams.turn()
    assert datagrams.receiver.closed


def test_nothing_is_asked_of_datagrams(datagrams: World) -> None:
    datagrams.turn()
    datagrams.host.setblocking(False)
    with pytest.raises(BlockingIOError):
        datagrams.host.recv(10)


def test_vsock_is_only_asked_for_where_there_is_one() -> None:
    """Mainline has no datagrams: then, as without vsock, the port is taken."""
    places = StillPlaces()
    places.vsock = "/nowhere"
    assert timesync._open_vsock(places) == -1
    places.vsock = "/"
    listener = timesync._open_vsock(places)
    if listener >= 0:
        os.close(listener)
        pytest.skip("this kernel has vsock datagrams")


# ---- init as PID 1


def start_of(machine: Machine) -> dict[str, object]:
    assert machine.start is not None
    return machine.start


@pytest.mark.root
def test_frames_set_the_clock_while_the_workload_runs(machine: Machine) -> None:
    machine.stdin_end = False
    machine.shell("read go; echo done").boot()
    machine.wait_for(STARTED)
    for seconds in (3600, 3600, -3600, 0):
        machine.send(TIME, record(time.time_ns() + seconds * 10**9))
        time.sleep(0.1)
    machine.send(TIME, record(1))
    machine.send(TIME, record(1) + b"and what a later version may add")
    machine.wait_for(LOG)
    machine.feed(b"go\n")
    machine.wait()
    assert machine.console.count(b"clock set\n") == 3
    assert machine.exit == (0, 0, "")
    lines = machine.logs.splitlines()
    assert [line[:26] for line in lines] == ["the clock was set back by ", "the host's clock was refus"]


@pytest.mark.root
def test_the_newest_of_many_frames_counts(machine: Machine) -> None:
    machine.stdin_end = False
    machine.shell("read go; echo done").boot()
    machine.wait_for(STARTED)
    frames = [struct.pack("<IHHI", 8, TIME, 0, 0) + record(time.time_ns() + n * 10**13) for n in range(1, 9)]
    machine.send_raw(b"".join(frames))
    time.sleep(0.2)
    machine.feed(b"go\n")
    machine.wait()
    assert machine.console.count(b"clock set\n") == 1


@pytest.mark.root
@pytest.mark.parametrize("control", [True, False], ids=["control port", "plain host"])
def test_port_that_pid1_serves(machine: Machine, control: bool) -> None:
    machine.ports = [*(machine.ports if control else ["krun-stdin", "krun-stdout", "krun-stderr"]), PORT]
    machine.stdin_end = False
    start_of(machine)["streams"] = "relay" if control else "ports"
    machine.shell("echo ready; read go; echo done").boot()
    machine.wait_output("krun-stdout", b"ready")
    machine.wait_output(PORT, b"\0")
    data = record(time.time_ns() - 10**12)
    machine.talk(PORT, data[:3])
    time.sleep(0.1)
    machine.talk(PORT, data[3:])
    time.sleep(0.2)
    machine.feed(b"go\n")
    machine.wait()
    assert machine.stdout == b"ready\ndone\n"
    assert machine.console.count(b"clock set\n") == 1
    assert machine.returncode == REBOOTED


@pytest.mark.root
def test_port_in_pid1_mode_is_served_by_a_child(machine: Machine) -> None:
    """It outlives the exec; wait(2) does not know it; it holds nothing else; it ends with its port."""
    machine.ports = [*machine.ports, PORT]
    machine.stdin_end = False
    machine.links["/bin/ls"] = "busybox"
    start_of(machine).update(pid1=True, streams="ports", workdir="/proc")
    script = "echo ready; read go; for p in /proc/[0-9]*; do echo $p $(cat $p/stat); ls -l $p/fd; done; wait; "
    script += "read go; for p in /proc/[0-9]*; do echo at $p $(cat $p/stat); done; exit 42"
    machine.shell(script).boot()
    machine.wait_output("krun-stdout", b"ready")
    machine.wait_output(PORT, b"\0")
    for seconds in (1000, 0):
        machine.talk(PORT, record(time.time_ns() + seconds * 10**9))
        time.sleep(0.1)
    machine.feed(b"go\n")
    time.sleep(0.3)
    machine.close_port(PORT)
    time.sleep(0.2)
    machine.feed(b"go\n")
    machine.wait()
    assert machine.returncode == 42
    assert machine.console.count(b"clock set\n") == 2
    assert machine.console.count(b"init: the clock was set back by ") == 1
    before, after = machine.stdout.decode().split("at /proc/1 ")
    (child,) = [block for block in before.split("/proc/")[2:] if " S 1 " in block]
    number, _name, _state, _parent, group, session, *_rest = child.split()[1:]
    assert group == session == number != "1"
    assert (child.count(" -> "), child.count("-> socket:")) == (4, 1), child  # init's own 0, 1 and 2, and the port
    assert f"/proc/{number} " not in after or " Z 1 " in after


@pytest.mark.root
def test_pid1_mode_whose_program_is_not_there(machine: Machine) -> None:
    machine.ports = [*machine.ports, PORT]
    start_of(machine).update(pid1=True, streams="ports", init="/missing")
    machine.run()
    assert machine.exit == (127, 0, "Couldn't execute '/missing': No such file or directory")
    assert machine.returncode == REBOOTED


@pytest.mark.root
def test_port_that_cannot_be_had_is_a_warning(machine: Machine) -> None:
    machine.ports = [*machine.ports, PORT]
    machine.busy = [PORT]
    machine.shell("echo fine").run()
    assert machine.stdout == b"fine\n"
    assert "cannot open virtio port" in machine.logs


# ---- the heir


def test_heir_goes_on_when_the_parent_is_another_program() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        value = [41]

        def heir() -> None:
            value[0] += 1
            os.write(writer, f"heir {value[0]} {os.getppid() == parent} ".encode())

        parent = os.getpid()
        code = "import os, time; time.sleep(0.2); os.write(1, b'exec ')\n"
        code += "try: os.waitpid(-1, 0)\nexcept ChildProcessError: os.write(1, b'childless')"
        try:
            _linux.execute([sys.executable], ["x", "-ISc", code], [], streams=(-1, writer, -1), heir=heir)
        finally:
            os._exit(70)
    os.close(writer)
    assert os.waitpid(pid, 0)[1] == 0
    text = b""
    while data := os.read(reader, 100):
        text += data
    os.close(reader)
    assert text == b"heir 42 True exec childless"


def test_no_heir_without_an_inheritance() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            _linux.execute(["/missing"], ["x"], [], heir=lambda: os._exit(os.write(writer, b"heir")))
        except FileNotFoundError:
            os.write(writer, b"failed")
        finally:
            os._exit(3)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert os.read(reader, 100) == b"failed"
    assert os.read(reader, 100) == b""
    os.close(reader)
