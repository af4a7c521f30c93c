"""vsock: streams between the guest and Unix sockets of the host, in both directions."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.boot import planned
from tests.boot.vm import LIMIT, Vm, finish, read_line
from tests.support.command import Pykrun

Serve = Callable[[socket.socket], None]


class Server:
    """Listens on a Unix socket and gives each connection to a thread of its own."""

    def __init__(self, path: Path, serve: Serve) -> None:
        self.path = path
        self.failures: list[BaseException] = []
        self.count = 0
        self._serve = serve
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.count += 1
            thread = threading.Thread(target=self._run, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        connection.settimeout(LIMIT)
        try:
            with connection:
                self._serve(connection)
        except BaseException as error:
            self.failures.append(error)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(30)
        assert not self.failures, self.failures


def read_all(connection: socket.socket) -> bytes:
    content = bytearray()
    while chunk := connection.recv(65536):
        content += chunk
    return bytes(content)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str, Serve], Server]]:
    servers = []

    def start(name: str, function: Serve) -> Server:
        servers.append(Server(tmp_path / name, function))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def ports(*entries: tuple[int, Path, bool]) -> str:
    return (
        "vsock=(" + "".join(f"VsockPort(port={p}, path={str(path)!r}, listen={li})," for p, path, li in entries) + ")"
    )


def test_to_the_host_and_back(vm: Vm, tmp_path: Path, serve: Callable[[str, Serve], Server]) -> None:
    """Half a close, megabytes each way at once, a reader that takes its time: nothing is lost or changed."""
    sent = os.urandom(3 << 20)

    def answer(connection: socket.socket) -> None:
        time.sleep(0.5)
        content = read_all(connection)  # up to the guest's half close
        connection.sendall(hashlib.sha256(content).hexdigest().encode() + b"\n" + content[::-1])

    server = serve("host", answer)
    (tmp_path / "sent").write_bytes(sent)
    source = os.open(tmp_path / "sent", os.O_RDONLY)
    result = planned.run(vm, ports((1234, server.path, False)), "--", "/tool", "vsock-cat", "1234", stdin=source)
    os.close(source)
    assert (result.code, result.err) == (0, b"")
    digest, content = result.out.split(b"\n", 1)
    assert digest.decode() == hashlib.sha256(sent).hexdigest()
    assert content == sent[::-1]


def test_nobody_there(vm_once: Vm, tmp_path: Path) -> None:
    """Neither behind a port that leads nowhere, nor behind one whose socket is missing, nor at another address."""
    for words in (["5"], ["6"], ["6", "77"]):
        result = planned.run(vm_once, ports((6, tmp_path / "missing", False)), "--", "/tool", "vsock-cat", *words)
        assert result.code == 3
        assert result.out in (b"Connection reset by peer\n", b"Operation timed out\n"), words


def test_from_the_host(vm: Vm, tmp_path: Path) -> None:
    """Many at once, each gets its own bytes back; the socket is its user's alone and gone afterwards."""
    path = tmp_path / "in"
    count = 40
    words = ["--", "/tool", "vsock-echo", "77", str(count)]
    process = planned.start(vm, ports((77, path, True)), *words)
    assert read_line(process) == b"listening\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    connections = []
    for number in range(count):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LIMIT)
        connection.connect(str(path))
        connection.sendall(b"%d\n" % number * 1000)
        connections.append(connection)
    for connection in connections:
        connection.shutdown(socket.SHUT_WR)
    for number, connection in enumerate(connections):
        assert read_all(connection) == b"%d\n" % number * 1000
        connection.close()
    result = finish(process)
    assert (result.code, result.err) == (0, b"")
    assert not path.exists()


def test_a_guest_that_does_not_listen(vm_once: Vm, tmp_path: Path) -> None:
    path = tmp_path / "in"
    process = planned.start(vm_once, ports((77, path, True)), "--", "/tool", "vsock-echo", "78", "1", stdin=None)
    assert read_line(process) == b"listening\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT)
        connection.connect(str(path))
        assert connection.recv(1) == b"", "it hung up"
    process.terminate()
    assert finish(process).code == 143


def test_a_kill_removes_the_socket(vm_once: Vm, tmp_path: Path) -> None:
    path = tmp_path / "in"
    process = planned.start(vm_once, ports((77, path, True)), "--", "/tool", "vsock-echo", "77", "1")
    assert read_line(process) == b"listening\n"
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not path.exists()


def test_more_connections_than_there_can_be(vm_once: Vm, serve: Callable[[str, Serve], Server]) -> None:
    """The guest is told so, and what it has goes on."""
    server = serve("host", lambda connection: connection.recv(1) and None)
    result = planned.run(vm_once, ports((9, server.path, False)), "--", "/tool", "vsock-many", "9", "1100")
    assert (result.code, result.err) == (0, b"")
    count, reason = result.out.split(b" ", 1)
    assert (int(count), reason) in (
        (1024, b"Connection reset by peer\n"),
        (1021, b"No file descriptors available\n"),
    ), result.out


@pytest.mark.uml
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("VsockPort(port=-1, path='a'),", b"port -1"),
        ("VsockPort(port=1, path='x' * 200),", b"107 bytes"),
        ("VsockPort(port=1, path='a'), VsockPort(port=1, path='b'),", b"twice"),
        ("VsockPort(port=1, path='a', listen=True), VsockPort(port=2, path='a', listen=True),", b"twice"),
        ("VsockPort(port=1, path='/etc/passwd', listen=True),", b"in use"),
        ("VsockPort(port=1, path='/no/such/place', listen=True),", b"cannot make"),
    ],
)
def test_what_cannot_be(tool: Path, run_pykrun: Pykrun, fields: str, words: bytes) -> None:
    result = planned.run(Vm("uml", tool, run_pykrun), f"vsock=({fields})", "--", "/tool", "exit", "0")
    assert result.code == 125
    assert words in result.err


def test_no_socket_stays_when_another_cannot_be_made(tool: Path, run_pykrun: Pykrun, tmp_path: Path) -> None:
    entries = ports((1, tmp_path / "one", True), (2, Path("/etc/passwd"), True))
    assert planned.run(Vm("uml", tool, run_pykrun), entries, "--", "/tool", "exit", "0").code == 125
    assert list(tmp_path.iterdir()) == []
