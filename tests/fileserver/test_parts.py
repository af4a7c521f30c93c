"""The parts that a running server does not show: what goes over the link, the log, options of mounts."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from pykrun.errors import UsageError
from pykrun.fileserver import link as messages
from pykrun.fileserver.link import LONGEST, clean, pair
from pykrun.fileserver.log import Log, write
from pykrun.fileserver.mounting import parse_options
from pykrun.fileserver.socket_file import SocketFile
from pykrun.host import linux

Heard = list[tuple[bytes, str, int]]


def test_messages_and_descriptors_cross_the_link() -> None:
    up, down = pair()
    before = len(os.listdir("/proc/self/fd"))
    heard: Heard = []
    reading, writing = os.pipe()

    def take(kind: bytes, text: str, descriptor: int) -> None:
        heard.append((kind, text, os.dup(descriptor) if descriptor >= 0 else -1))

    assert down.receive(take)
    assert up.send(messages.LOG, "3text")
    assert up.send(messages.CONNECTION, "1", descriptor=writing)
    assert down.receive(take)
    assert [row[:2] for row in heard] == [(b"L", "3text"), (b"C", "1")]
    os.write(heard[1][2], b"through")
    assert os.read(reading, 10) == b"through"
    for descriptor in (reading, writing, heard[1][2]):
        os.close(descriptor)
    assert len(os.listdir("/proc/self/fd")) == before
    up.close()
    assert not down.receive(take)
    assert not down.send(messages.QUIT)
    down.close()


def test_nobody_waits_for_one_who_does_not_read() -> None:
    up, down = pair()
    sent = 0
    while up.send(messages.LOG, "x" * 1000):
        sent += 1
        assert sent < 10_000
    heard: Heard = []
    assert down.receive(lambda *row: heard.append(row), most=10)
    assert len(heard) == 10
    assert down.receive(lambda *row: heard.append(row), most=10_000)
    assert len(heard) == sent
    up.close()
    down.close()


def test_messages_are_bounded_and_descriptors_that_nobody_asked_for_are_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = messages.Link(theirs)
    before = len(os.listdir("/proc/self/fd"))
    ours.send(b"L" + b"y" * (LONGEST + 100))
    socket.send_fds(ours, [b"L3with many"], [0, 1, 2, 0, 1])
    heard: Heard = []
    assert link.receive(lambda *row: heard.append(row))
    assert len(heard[0][1]) == LONGEST - 1
    assert heard[1][1] == "3with many"
    assert len(os.listdir("/proc/self/fd")) == before
    link.close()
    ours.close()


def test_what_a_server_says_cannot_drive_a_terminal() -> None:
    assert clean("a\x1b[31mb\r\n\tc\x9b\u202e") == "a?[31mb???c??"
    assert len(clean("x" * 5000)) == 1000


def test_levels_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log("warn")
    log(2, "warned")
    log(3, "told")
    Log("off")(1, "failed")
    assert capfd.readouterr().err == "pykrun: warned\n"


def test_a_reader_who_sleeps_holds_up_nobody() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(65536))
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    kept = os.dup(2)
    os.dup2(writing, 2)
    try:
        write("is lost")
    finally:
        os.dup2(kept, 2)
    for descriptor in (kept, reading, writing):
        os.close(descriptor)


def test_mount_options() -> None:
    options = parse_options(["noexec,noatime", "rw,fsname=x=y,allow_other,,default_permissions"], read_only=False)
    assert options.flags == linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC | linux.MS_NOATIME
    assert options.words == ["noexec", "noatime", "rw"]
    assert (options.source, options.allow_other) == ("x=y", True)
    assert parse_options(["rw"], read_only=True).flags & linux.MS_RDONLY
    assert parse_options([], read_only=False).allow_other is False


@pytest.mark.root
def test_mount_options_of_root() -> None:
    assert parse_options(["suid,dev"], read_only=False).flags == 0


@pytest.mark.parametrize("text", ["loop", "fsname=", "allow_other=1", "uid=5"])
def test_mount_options_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="is not known"):
        parse_options([text], read_only=False)


def test_a_socket_is_closed_to_others_before_it_listens(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        file = SocketFile(str(tmp_path / "s"))
    finally:
        os.umask(old)
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    file.close()
    file.close()
    assert os.listdir(tmp_path) == []


def test_one_after_the_other_replaces_sockets(tmp_path: Path) -> None:
    """Between finding a socket dead and binding a new one, nobody else does the same."""
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    made = threading.Thread(target=lambda: SocketFile(str(tmp_path / "s")).socket.close())
    made.start()
    made.join(0.3)
    assert made.is_alive()
    assert os.listdir(tmp_path) == []
    os.close(folder)
    made.join(10)
    assert os.listdir(tmp_path) == ["s"]


def test_many_at_once_and_one_wins(tmp_path: Path) -> None:
    """They all find the same dead server's socket; whoever replaces it is not replaced by the next."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    reading, writing = os.pipe()
    pids = []
    for _ in range(6):
        pid = os.fork()
        if not pid:
            try:
                file = SocketFile(str(tmp_path / "s"))
                os.write(writing, b"w")
                time.sleep(1)
                file.close()
            except UsageError:
                os.write(writing, b"l")
            finally:
                os._exit(0)
        pids.append(pid)
    os.close(writing)
    for pid in pids:
        os.waitpid(pid, 0)
    assert sorted(os.read(reading, 100)) == sorted(b"wlllll")
    os.close(reading)
    assert os.listdir(tmp_path) == []
