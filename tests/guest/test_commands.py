"""Further commands beside the workload, with real processes: init's side of docs/control-port.md."""

from __future__ import annotations

import json
import os
import random
import struct
import time
from typing import Any

import pytest

from tests.guest.machine import (
    CLOSE,
    CLOSE_OUTPUT,
    CREDIT,
    EXEC,
    EXIT,
    INPUT,
    INPUT_CREDIT,
    LOG,
    OUTPUT,
    REBOOTED,
    RESIZE,
    SIGNAL,
    SPEC,
    STARTED,
    STDIN_END,
    STOP,
    Machine,
    frame,
)

pytestmark = pytest.mark.root

WINDOW_OUT, WINDOW_IN = 1 << 18, 1 << 16


class Host:
    """What a host does with the commands of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.last = 0

    def start(self, *argv: str, **process: Any) -> int:
        """Start it; its number."""
        return self.describe(json.dumps({"args": list(argv), **process}).encode())

    def shell(self, script: str, **process: Any) -> int:
        return self.start("/bin/sh", "-c", script, **process)

    def describe(self, description: bytes, piece: int = 60_000) -> int:
        self.last += 1
        pieces = [description[at : at + piece] for at in range(0, len(description), piece)] or [b""]
        for part in pieces[:-1]:
            self.machine.send(SPEC, part, self.last)
        self.machine.send(EXEC, pieces[-1], self.last)
        return self.last

    def frames(self, number: int, kind: int) -> list[bytes]:
        return [body for other, body in self.machine.further.get(number, []) if other == kind]

    def output(self, number: int, stream: int = 1) -> bytes:
        return b"".join(body[1:] for body in self.frames(number, OUTPUT) if body[0] == stream)

    def wait_started(self, number: int) -> int:
        self.machine.wait_until(lambda: self.frames(number, STARTED))
        return int(struct.unpack("<i", self.frames(number, STARTED)[0])[0])

    def wait_output(self, number: int, wanted: bytes, stream: int = 1) -> None:
        self.machine.wait_until(lambda: wanted in self.output(number, stream))

    def wait(self, number: int, timeout: float = 10) -> tuple[int, int, str]:
        """Code, signal and reason of its EXIT, which is its last frame."""
        self.machine.wait_until(lambda: self.frames(number, EXIT), timeout)
        assert [kind for kind, _body in self.machine.further[number]].index(EXIT) == (
            len(self.machine.further[number]) - 1
        )
        body = self.frames(number, EXIT)[0]
        code, signal = struct.unpack_from("<ii", body)
        return code, signal, body[8:].decode()

    def feed(self, number: int, data: bytes) -> None:
        self.machine.send(INPUT, data, number)

    def end_input(self, number: int) -> None:
        self.machine.send(STDIN_END, struct.pack("<Q", 0), number)

    def signal(self, number: int, which: int) -> None:
        self.machine.send(SIGNAL, struct.pack("<I", which), number)

    def grant(self, number: int, size: int, stream: int = 1) -> None:
        self.machine.send(CREDIT, struct.pack("<BI", stream, size), number)

    def end(self) -> None:
        """End the workload, and with it the machine; everything must have been as it should."""
        self.machine.send(STOP, struct.pack("<I", 2000))
        self.machine.wait()
        assert self.machine.exit[1] == 15, self.machine.exit
        assert self.machine.logs == ""


@pytest.fixture
def host(machine: Machine) -> Host:
    """A machine whose workload waits for SIGTERM."""
    machine.links |= {
        f"/bin/{name}": "busybox"
        for name in ("echo", "grep", "ln", "ls", "mkdir", "mkfifo", "rm", "setsid", "stty", "true", "tty", "wc")
    }
    machine.text("/etc/passwd", "root:x:0:0::/root:/bin/sh\nanna:x:1001:1002::/home/anna:/bin/sh\n")
    machine.text("/etc/group", "anna:x:1002:\nworkers:x:70:bob,anna\nothers:x:71:bob\n")
    assert machine.start is not None
    machine.start.update(
        init="/bin/sleep",
        argv=["1000"],
        env=["OWN=workload", "HOME=/own", "PATH=/bin"],
        workdir="/etc",
        rlimits=[[4, 1000, 2000]],
    )
    machine.boot().wait_for(STARTED)
    return Host(machine)


def test_three_streams_and_a_code(host: Host) -> None:
    number = host.shell("cat; echo err >&2; exit 42")
    assert host.wait_started(number) > 1
    host.feed(number, b"one ")
    host.feed(number, b"two")
    host.end_input(number)
    assert host.wait(number) == (42, 0, "")
    assert (host.output(number), host.output(number, 2)) == (b"one two", b"err\n")
    host.end()


@pytest.mark.parametrize(
    ("script", "ending"), [("exit 255", (255, 0)), ("kill -9 $$", (137, 9)), ("kill -11 $$", (139, 11))]
)
def test_endings(host: Host, script: str, ending: tuple[int, int]) -> None:
    assert host.wait(host.shell(script))[:2] == ending
    host.end()


def test_what_cannot_be_started(host: Host) -> None:
    """Each has its reason, and the next one starts."""
    for argv, code, reason in (
        (["/missing"], 127, "Couldn't execute '/missing': No such file or directory"),
        (["/etc/passwd"], 126, "Couldn't execute '/etc/passwd': Permission denied"),
        ([], 125, "process: args must name a program"),
    ):
        number = host.start(*argv)
        assert host.wait(number) == (code, 0, reason)
        assert host.frames(number, STARTED) == []
    for field, value, reason in (
        ("cwd", "/missing", "working directory '/missing': No such file or directory"),
        ("user", {"username": "nobody"}, "there is no user 'nobody' in /etc/passwd"),
        ("user", {"username": "anna:none"}, "there is no group 'none' in /etc/group"),
        ("rlimits", [{"type": "RLIMIT_ODD", "soft": 1, "hard": 1}], "'RLIMIT_ODD' is no resource limit"),
        ("env", ["X"], "must be of the form NAME=VALUE"),
        ("terminal", 1, "process: terminal must be true or false, not a number"),
        ("consoleSize", {"height": -1}, "must be a number from 0 to 65535"),
    ):
        code, signal, text = host.wait(host.start("/bin/id", **{field: value}))
        assert (code, signal) == (125, 0)
        assert reason in text
    assert "is not JSON" in host.wait(host.describe(b"{"))[2]
    assert "must be an object" in host.wait(host.describe(b"[]"))[2]
    assert "more than 4194304 bytes" in host.wait(host.describe(b" " * (4 << 20) + b"{}"))[2]
    assert host.wait(host.start("/bin/id"))[0] == 0
    host.end()


def test_whatever_is_absent_is_the_workloads(host: Host) -> None:
    number = host.shell('echo "$OWN|$HOME|$(pwd)|$(ulimit -c)|$(id -u)|$0"')
    assert host.wait(number)[0] == 0
    assert host.output(number) == b"workload|/own|/etc|1|0|/bin/sh\n"
    host.end()


def test_whatever_is_said_replaces_it(host: Host) -> None:
    number = host.shell(
        'echo "$OWN|$MINE|$(pwd)|$(ulimit -c)|$(id -u):$(id -g):$(id -G)|$(umask)"\n'
        'grep -E "CapBnd|NoNew" /proc/$$/status',
        env=["MINE=\udcff"],
        cwd="/bin",
        user={"uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o077},
        rlimits=[{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        capabilities={"bounding": ["CAP_KILL"]},
        noNewPrivileges=True,
    )
    assert host.wait(number) == (0, 0, ""), host.output(number, 2)
    said, bounding, privileges = host.output(number).splitlines()
    assert said == b"|\xff|/bin|0|5:6:6 7|0077"
    assert int(bounding.split()[1], 16) == 1 << 5
    assert privileges.split()[1] == b"1"
    number = host.shell('echo "$(pwd)"')
    assert host.wait(number)[0] == 0
    assert host.output(number) == b"/etc\n", "init is back where it was"
    host.end()


def test_environment_that_is_added(host: Host) -> None:
    number = host.start("/bin/env", env=["MINE=1", "HOME=/mine"], inherit_env=True)
    assert host.wait(number)[0] == 0
    assert set(host.output(number).splitlines()) == {
        b"OWN=workload",
        b"HOME=/mine",
        b"PATH=/bin",
        b"MINE=1",
        b"TERM=linux",
    }
    host.end()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("anna", b"1001:1002:1002 70 /home/anna"),
        ("1001", b"1001:1002:1002 70 /home/anna"),
        ("anna:others", b"1001:71:71 /home/anna"),
        ("77", b"77:0:0 /"),
        ("77:78", b"77:78:78 /"),
        (":70", b"0:70:70 /root"),
    ],
)
def test_users_by_name(host: Host, name: str, expected: bytes) -> None:
    number = host.shell('echo "$(id -u):$(id -g):$(id -G) $HOME"', user={"username": name}, inherit_env=True)
    assert host.wait(number) == (0, 0, "")
    assert host.output(number) == expected + b"\n"
    host.end()


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/group"])
@pytest.mark.parametrize("make", ["mkfifo {}", "ln -s /dev/zero {}", "mkdir {}", "dd if=/dev/zero of={} bs=1M count=5"])
def test_users_of_a_hostile_root(host: Host, path: str, make: str) -> None:
    """Init waits for nobody who could write a pipe, and reads nothing that has no end."""
    assert host.wait(host.shell(f"rm {path}; {make.format(path)} 2>/dev/null"))[0] == 0
    code, signal, reason = host.wait(host.shell("id", user={"username": "anna:workers"}))
    assert (code, signal) == (125, 0)
    assert reason.startswith("there is no ")
    assert reason.endswith(path)
    assert host.wait(host.start("/bin/true"))[0] == 0
    host.end()


def test_description_of_many_pieces(host: Host) -> None:
    """Two of them interleaved, each with an argument that no frame holds."""
    words = ["a" * 100_000, "b" * 100_000]
    pieces = [json.dumps({"args": ["/bin/sh", "-c", "echo $1 | wc -c", "sh", word]}).encode() for word in words]
    host.last = 2
    for at in (0, 60_000):
        for number in (1, 2):
            host.machine.send(EXEC if at else SPEC, pieces[number - 1][at : at + 60_000], number)
    for number in (1, 2):
        assert host.wait(number) == (0, 0, "")
        assert host.output(number).strip() == b"100001"
    host.end()


def test_signals_reach_its_group_and_nobody_else(host: Host) -> None:
    other = host.start("/bin/sleep", "1000")
    number = host.shell("trap 'echo got' USR1; echo ready; while :; do sleep 0.05; done")
    host.wait_output(number, b"ready")
    host.signal(number, 10)
    host.wait_output(number, b"got")
    for which in (0, 65, 1 << 31):
        host.signal(number, which)
    host.signal(number, 9)
    assert host.wait(number)[:2] == (137, 9)
    host.signal(number, 9)  # crossed on the wire
    assert not host.frames(other, EXIT)
    host.signal(other, 15)
    assert host.wait(other)[:2] == (143, 15)
    host.end()


def test_slow_reader_holds_up_only_its_command(host: Host) -> None:
    """Beyond its credit nothing is sent; what was not read stays in the pipe, and nothing is lost."""
    slow = host.shell("yes | head -c 1000000; echo end >&2")
    host.machine.wait_until(lambda: len(host.output(slow)) == WINDOW_OUT)
    quick = host.start("/bin/echo", "quick")
    assert host.wait(quick)[0] == 0
    assert len(host.output(slow)) == WINDOW_OUT
    host.grant(slow, 1000)
    host.machine.wait_until(lambda: len(host.output(slow)) == WINDOW_OUT + 1000)
    host.grant(slow, 1 << 20)
    assert host.wait(slow)[0] == 0
    assert host.output(slow) == b"y\n" * 500_000
    assert host.output(slow, 2) == b"end\n"
    host.end()


def test_exit_waits_for_the_last_byte(host: Host) -> None:
    """The process is gone, its pipe is not empty."""
    number = host.shell(f"yes | head -c {WINDOW_OUT + 50_000}")
    host.machine.wait_until(lambda: len(host.output(number)) == WINDOW_OUT)
    time.sleep(0.2)
    assert not host.frames(number, EXIT)
    host.grant(number, 1 << 20)
    assert host.wait(number)[0] == 0
    assert len(host.output(number)) == WINDOW_OUT + 50_000
    host.end()


def test_input_has_credit_as_it_is_taken(host: Host) -> None:
    number = host.shell("read go; wc -c")
    data = os.urandom(1 << 20)
    host.feed(number, b"go\n" + data[: WINDOW_IN - 3])
    sent, granted = WINDOW_IN - 3, 0
    while sent < len(data):
        host.machine.wait_until(lambda seen=granted: len(host.frames(number, INPUT_CREDIT)) > seen)  # type: ignore[misc]
        for body in host.frames(number, INPUT_CREDIT)[granted:]:
            size = struct.unpack("<I", body)[0]
            host.feed(number, data[sent : sent + size])
            sent += size
            granted += 1
    host.end_input(number)
    assert host.wait(number)[0] == 0
    assert int(host.output(number)) == len(data)
    host.end()


def test_command_that_does_not_read(host: Host) -> None:
    """The host hears of it; what comes still is dropped."""
    number = host.shell("exec <&-; echo closed; sleep 0.3")
    host.wait_output(number, b"closed")
    host.feed(number, b"x" * 1000)
    host.machine.wait_until(lambda: host.frames(number, CLOSE) == [b"\0"])
    host.feed(number, b"x" * 1000)
    host.end_input(number)
    assert host.wait(number)[0] == 0
    host.end()


def test_output_that_nobody_reads(host: Host) -> None:
    number = host.shell("yes; echo $? >&2")
    host.machine.wait_until(lambda: host.output(number))
    host.machine.send(CLOSE_OUTPUT, b"\1", number)
    assert host.wait(number)[0] == 0
    assert host.output(number, 2) == b"141\n" or b"Broken pipe" in host.output(number, 2)
    host.machine.send(CLOSE_OUTPUT, b"\7", host.start("/bin/true"))
    host.end()


def test_background_child_does_not_hold_it_up(host: Host) -> None:
    """What it wrote before the end counts, what it writes later does not, and it goes on."""
    number = host.shell("(sleep 0.3; echo late; sleep 1000) & echo early")
    assert host.wait(number, 2) == (0, 0, "")
    assert host.output(number) == b"early\n"
    host.end()


def test_orphans_are_buried(host: Host) -> None:
    assert host.wait(host.shell("(sleep 0.1 &) ; exit 3"))[0] == 3
    time.sleep(0.2)
    number = host.shell("grep -l 'State:.*Z' /proc/[0-9]*/status")
    host.wait(number)
    assert host.output(number) == b""
    host.end()


def test_two_hundred_at_once(host: Host) -> None:
    numbers = [host.start("/bin/sh", "-c", "read word; echo $word $0; exit $0", str(index)) for index in range(200)]
    for number in numbers:
        host.wait_started(number)
    for number in reversed(numbers):
        host.feed(number, f"word{number}\n".encode())
    for index, number in enumerate(numbers):
        assert host.wait(number, 30) == (index, 0, "")
        assert host.output(number) == f"word{number} {index}\n".encode()
    host.end()


def test_limits_of_init_are_not_passed_on(host: Host) -> None:
    ours = host.shell("ulimit -Sn; ulimit -Hn")
    assert host.wait(ours)[0] == 0
    again = host.shell("ulimit -Sn; ulimit -Hn")
    assert host.wait(again)[0] == 0
    import resource

    expected = "".join(f"{limit}\n" for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
    assert host.output(ours) == host.output(again) == expected.encode()
    asked = host.shell("ulimit -Sn", rlimits=[{"type": "RLIMIT_NOFILE", "soft": 33, "hard": 44}])
    assert host.wait(asked)[0] == 0
    assert host.output(asked) == b"33\n"
    host.end()


def test_its_descriptors_are_its_streams(host: Host) -> None:
    number = host.start("/bin/ls", "/proc/self/fd")
    assert host.wait(number)[0] == 0
    assert host.output(number).split() == [b"0", b"1", b"2", b"3"]  # 3 is the folder
    host.end()


def test_broken_frames_are_said_and_cost_only_the_port(host: Host) -> None:
    """Init goes on without the host, and the workload ends as ever."""
    host.machine.send(INPUT, b"x", 9)
    host.machine.wait_until(lambda: host.machine.bodies(LOG))
    assert "process 9, which was never started" in host.machine.logs


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (frame(EXEC, b"{}", 1), "described again"),
        (frame(SPEC, b"{}", 1), "described again"),
        (frame(INPUT, bytes(60_000), 2) * 3, "beyond its credit"),
        (frame(SIGNAL, bytes(4), 3), "never started"),
    ],
)
def test_frames_that_must_not_be(host: Host, broken: bytes, said: str) -> None:
    assert host.wait(host.start("/bin/true"))[0] == 0
    host.wait_started(host.start("/bin/sleep", "1000"))
    host.machine.send_raw(broken)
    host.machine.wait_until(lambda: host.machine.bodies(LOG))
    assert said in host.machine.logs


# -- terminals --------------------------------------------------------------------------------------------------


def test_terminal(host: Host) -> None:
    """It has one of its own, of its size and its user's, and leads its session."""
    number = host.shell(
        "tty; ls -ln $(tty); stty size; cat; echo err >&2",
        terminal=True,
        consoleSize={"height": 33, "width": 111},
        user={"uid": 12, "gid": 13},
    )
    host.wait_output(number, b"33 111")
    host.feed(number, b"line\n")
    host.wait_output(number, b"line\r\nline\r\n")  # the echo, and cat's
    host.end_input(number)
    assert host.wait(number) == (0, 0, "")
    lines = host.output(number).split(b"\r\n")
    assert lines[0].startswith(b"/dev/pts/")
    assert lines[1].split()[2] == b"12"
    assert b"err" in lines
    assert host.output(number, 2) == b""
    host.end()


def test_terminal_is_resized_and_interrupted(host: Host) -> None:
    number = host.shell(
        "trap 'stty size' WINCH; trap 'echo int; exit 7' INT; echo ready; while :; do sleep 0.05; done", terminal=True
    )
    host.wait_output(number, b"ready")
    host.machine.send(RESIZE, struct.pack("<HHHH", 50, 100, 0, 0), number)
    host.wait_output(number, b"50 100")
    host.feed(number, b"\x03")
    assert host.wait(number) == (7, 0, "")
    assert host.output(number).endswith(b"int\r\n")
    host.end()


def test_terminal_that_hangs_up(host: Host) -> None:
    number = host.shell("trap 'exit 9' HUP; echo ready; while :; do sleep 0.05; done", terminal=True)
    host.wait_output(number, b"ready")
    host.machine.send(CLOSE_OUTPUT, b"\1", number)
    assert host.wait(number)[0] == 9
    host.end()


def test_last_words_on_a_terminal_arrive(host: Host) -> None:
    """More than a terminal holds, up to the last byte; and with a child that keeps it open."""
    number = host.shell("stty -opost; yes | head -c 300000", terminal=True)
    host.machine.wait_until(lambda: len(host.output(number)) == WINDOW_OUT)
    host.grant(number, 1 << 20)
    assert host.wait(number)[0] == 0
    assert host.output(number) == b"y\n" * 150_000
    number = host.shell("setsid sleep 1000 & sleep 0.1; echo last", terminal=True)
    assert host.wait(number, 3)[0] == 0
    assert host.output(number) == b"last\r\n"
    host.end()


def test_terminals_are_given_back(host: Host) -> None:
    for _ in range(5):
        number = host.start("/bin/tty", terminal=True)
        assert host.wait(number)[0] == 0
        assert host.output(number) == b"/dev/pts/0\r\n"
    host.end()


# -- the end ----------------------------------------------------------------------------------------------------


def test_end_of_the_workload_is_the_end_of_all(host: Host) -> None:
    """Those that ended by themselves have their own code, the others the reason."""
    done = host.shell(f"yes | head -c {WINDOW_OUT + 10_000}; exit 5")
    host.machine.wait_until(lambda: len(host.output(done)) == WINDOW_OUT)
    time.sleep(0.2)
    running = [host.start("/bin/sleep", "1000"), host.shell("trap '' HUP TERM; echo; while :; do sleep 1; done")]
    host.wait_output(running[1], b"\n")
    host.end()
    for number in running:
        assert host.wait(number) == (137, 9, "the VM ended: its own command has")
    assert host.wait(done)[0] == 5


def test_workload_is_untouched(machine: Machine) -> None:
    """Its output and its code, with commands that come and go beside it."""
    machine.shell("for word in 1 2 3; do read line; echo $line; done; exit 4")
    machine.stdin_end = False
    machine.boot().wait_for(STARTED)
    host = Host(machine)
    for word in (b"1", b"2", b"3"):
        assert host.wait(host.shell("exit 3"))[0] == 3
        machine.feed(word + b"\n")
    machine.wait()
    assert machine.stdout == b"1\n2\n3\n"
    assert machine.exit == (4, 0, "")


def test_nothing_of_a_command_is_kept(host: Host) -> None:
    """Init has no more descriptors after many of all kinds than after one."""

    def descriptors() -> int:
        number = host.shell("ls /proc/1/fd | wc -l")
        assert host.wait(number)[0] == 0
        return int(host.output(number))

    before = descriptors()
    for index in range(20):
        numbers = [
            host.start("/bin/true", terminal=index % 2 == 0),
            host.start("/missing"),
            host.start("/bin/id", cwd="/missing"),
            host.start("/bin/id", cwd="/bin", rlimits=[{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]),
            host.start("/missing", terminal=True),
        ]
        for number in numbers:
            host.wait(number)
    assert descriptors() == before
    host.end()


@pytest.mark.parametrize("seed", range(6))
def test_any_frames(machine: Machine, seed: int) -> None:
    """Whatever the host says of commands, the workload has its run and init its orderly end."""
    machine.shell("read line; exit 7")
    machine.stdin_end = False
    machine.boot().wait_for(STARTED)
    chance = random.Random(seed)
    descriptions = [
        b'{"args": ["/bin/cat"]}',
        b'{"args": ["/bin/yes"], "terminal": true}',
        b'{"args": ["/bin/sh"], "terminal": true, "consoleSize": {"height": 5}}',
        b'{"args": ["/bin/head", "-c", "100000", "/dev/zero"]}',
        b'{"args": 3}',
        b"{",
    ]
    last, sent = 1, frame(EXEC, descriptions[0], 1)
    for _ in range(400):
        kind = chance.choice([EXEC, EXEC, SPEC, INPUT, INPUT, CREDIT, SIGNAL, RESIZE, STDIN_END, CLOSE_OUTPUT])
        number = chance.randint(1, last)
        if kind in (SPEC, EXEC):
            last += 1
            number, body = last, chance.choice(descriptions)[: chance.choice([1, 100])]
        elif kind == INPUT:
            body = chance.randbytes(chance.choice([0, 1, 500])).replace(b"\n", b"")
        else:
            body = chance.choice([b"\0", b"\1", b"\2", b"\xff"]) + chance.choice([bytes(8), bytes([3] * 8)])
        sent += frame(kind, body, number)
    machine.send_raw(sent + (chance.randbytes(40) if seed % 2 else b""))
    machine.feed(b"\n")
    machine.wait()
    assert machine.returncode == REBOOTED
    if seed % 2 == 0:
        assert machine.logs == ""
        assert machine.exit == (7, 0, "")
        for number, said in machine.further.items():
            assert [kind for kind, _body in said].count(EXIT) == 1, number
            assert said[-1][0] == EXIT
    else:
        assert "broke the protocol" in machine.logs
