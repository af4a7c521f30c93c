"""A door without a VM behind it: its protocol, and what its visitors cannot do to it."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pykrun.errors import EngineError, PeerError, PykrunError, UsageError
from pykrun.loop import IN, Loop
from pykrun.request import Outcome
from pykrun.supervisor import door as door_module
from pykrun.supervisor import visitor as visitor_module
from pykrun.supervisor.door import Door
from pykrun.supervisor.visitor import Visitor
from pykrun.vms import Client, Message
from pykrun.vms.wire import LONGEST, pack
from tests.support.command import wait_until
from tests.support.descriptors import open_descriptors
from tests.support.processes import as_nobody

LIMIT = 20.0


class Served:
    """A door that is served by a thread's loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(256)
        self.got: list[tuple[Message, list[str]]] = []
        self.door = Door(self.listener, {"keep": self._keep, "fail": self._fail, "later": self._later})
        self.loop = Loop()
        self._asked: list[Callable[[], object]] = []
        self._wake = os.eventfd(0)
        self.loop.add(self._wake, IN, self._on_wake)
        self.door.attach(self.loop, None)
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def do(self, action: Callable[[], object]) -> None:
        """Have the loop's thread do something."""
        self._asked.append(action)
        os.eventfd_write(self._wake, 1)

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LIMIT)
        connection.connect(str(self.path))
        return connection

    def visit(self) -> Client:
        connection = self.connect()
        connection.settimeout(None)
        return Client(connection)

    def close(self) -> None:
        self.do(self.door.close)
        self.do(self.loop.stop)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        self.loop.close()
        os.close(self._wake)

    def _on_wake(self, _events: int) -> None:
        os.eventfd_read(self._wake)
        while self._asked:
            self._asked.pop(0)()

    def _keep(self, visitor: Visitor, message: Message, descriptors: list[int]) -> None:
        self.got.append((message, [os.readlink(f"/proc/self/fd/{number}") for number in descriptors]))
        visitor.answer("kept", count=len(descriptors))

    def _fail(self, visitor: Visitor, message: Message, descriptors: list[int]) -> None:
        raise ZeroDivisionError("a fault of ours")

    def _later(self, visitor: Visitor, message: Message, descriptors: list[int]) -> None:
        self.loop.call_later(0.05, lambda: visitor.answer("at last"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    before = open_descriptors()
    made = Served(tmp_path / "socket")
    yield made
    made.close()
    assert {number: name for number, name in open_descriptors().items() if before.get(number) != name} == {}


def says(connection: socket.socket) -> bytes:
    """Everything up to the connection's end."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            data += chunk
    return data


def test_a_question_and_its_answer(served: Served) -> None:
    with served.visit() as client:
        for _ in range(3):
            assert client.call("info") == {"event": "info", "status": "starting", "pid": os.getpid()}
        assert client.receive(0) is None


def test_more_requests_than_its_own(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with served.visit() as client, open(tmp_path / "file", "rb") as file:
        assert client.call("keep", [file.fileno(), file.fileno()], word="é\udc80")["count"] == 2
        assert client.call("later") == {"event": "at last"}
    ((message, files),) = served.got
    assert message["word"] == "é\udc80"
    assert files == [str(tmp_path / "file")] * 2


def test_what_there_is_no_request_for(served: Served) -> None:
    with served.visit() as client:
        for name in ("nothing", "", "__init__"):
            with pytest.raises(UsageError, match=f"there is no request '{name}'.*exec.*keep"):
                client.call(name)
        assert client.call("info")


def test_without_a_vm(served: Served) -> None:
    with served.visit() as client:
        for request in ("pause", "resume", "stop", "end"):
            with pytest.raises(EngineError, match="does not run"):
                client.call(request)
        with pytest.raises(EngineError, match="does not run"):
            client.call("exec", process={"args": ["x"]}, streams=[False] * 3)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({}, "needs a process"),
        ({"process": []}, "needs a process"),
        ({"process": {}, "streams": [True]}, "needs streams"),
        ({"process": {}, "streams": "abc"}, "needs streams"),
        ({"process": {}, "streams": [True, False, False]}, "needs streams"),
    ],
)
def test_an_exec_that_cannot_be(served: Served, fields: dict[str, Any], match: str) -> None:
    with served.visit() as client, pytest.raises(UsageError, match=match):
        client.call("exec", **fields)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        ("signal", {}),
        ("signal", {"number": 0}),
        ("signal", {"number": 65}),
        ("signal", {"number": True}),
        ("signal", {"number": "9"}),
        ("resize", {"rows": 1}),
        ("resize", {"rows": -1, "columns": 1}),
        ("resize", {"rows": 1, "columns": 70000}),
        ("stop", {"grace": "x"}),
        ("stop", {"grace": -1}),
        ("end", {"code": 256}),
    ],
)
def test_numbers_that_are_none(served: Served, request_: str, fields: dict[str, Any]) -> None:
    with served.visit() as client, pytest.raises(UsageError):
        client.call(request_, **fields)


def test_another_version_is_refused(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(pack({"version": 2, "request": "info"}))
        assert b"speaks version 1" in connection.recv(1000)


def test_a_fault_of_ours_ends_no_vm(served: Served) -> None:
    with served.visit() as client:
        with pytest.raises(PykrunError, match=r"internal error.*a fault of ours"):
            client.call("fail")
        assert client.call("info")


BROKEN = {
    "no JSON": struct.pack("<I", 3) + b"{a}",
    "nothing": struct.pack("<I", 0),
    "no object": struct.pack("<I", 2) + b"[]",
    "too deep": struct.pack("<I", 200000) + b"[" * 200000,
    "no UTF-8": struct.pack("<I", 4) + b'"\xff\xfe"',
    "a number": struct.pack("<I", 8) + b'{"a":1e}',
    "too long": struct.pack("<I", LONGEST + 1),
    "far too long": b"\xff" * 4,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_message_ends_the_connection(served: Served, data: bytes) -> None:
    with served.connect() as connection:
        connection.sendall(data)
        assert b'"kind":"PeerError"' in says(connection)
    with served.visit() as client:
        assert client.call("info")


def test_a_message_in_pieces_and_many_in_one(served: Served) -> None:
    message = pack({"request": "keep"})
    with served.connect() as connection:
        for byte in message:
            connection.sendall(bytes([byte]))
        connection.sendall(message * 50)
        wait_until(lambda: len(served.got) == 51)


def test_a_message_as_long_as_may_be(served: Served) -> None:
    room = LONGEST - len(pack({"request": "keep", "text": ""})) + 4
    with served.visit() as client:
        client.ask("keep", text="x" * (room - len(',"version":1')))
        assert client.receive(LIMIT) == {"event": "kept", "count": 0}
        with pytest.raises(PeerError, match="at most"):
            client.ask("keep", text="x" * LONGEST)


def test_too_many_descriptors(served: Served) -> None:
    with served.connect() as connection:
        message = pack({"request": "keep"})
        rights = struct.pack("9i", *[connection.fileno()] * 9)
        connection.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert b"more than 8 descriptors" in says(connection)
    assert served.got == []


def test_descriptors_that_nobody_wants_are_closed(served: Served) -> None:
    reading, writing = os.pipe()
    with served.visit() as client:
        client.call("info", [writing])
        os.close(writing)
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        assert poll.poll(LIMIT * 1000)
        assert os.read(reading, 1) == b""
    os.close(reading)


def test_who_is_silent_is_left(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitor_module, "SILENCE", 0.1)
    with served.connect() as silent, served.connect() as half, served.visit() as asked:
        asked.call("info")
        half.sendall(b"\x05\0")
        assert says(silent) == b""
        assert says(half) == b""
        assert asked.call("info"), "who has asked may be silent"
        asked._channel.connection.sendall(b"\x05\0")
        assert asked.receive(LIMIT) == {"event": "gone"}


def test_who_does_not_read_is_left(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitor_module, "MOST_PENDING", 1 << 16)
    with served.connect() as deaf:
        message = pack({"request": "info"}) * 1000
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(200):
                deaf.sendall(message)
        with served.visit() as client:
            assert client.call("info")


def test_the_slow_hold_up_nobody(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(served.connect())
            connection.sendall(struct.pack("<I", 1000) + b"{")
        begun = time.monotonic()
        with served.visit() as client:
            client.call("info")
        assert time.monotonic() - begun < 2


def test_there_is_a_limit_to_connections(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "MOST", 3)
    with served.visit() as first, served.visit() as second, served.visit() as third:
        for client in (first, second, third):
            client.call("info")
        with served.visit() as fourth, pytest.raises(UsageError, match="3 connections"):
            fourth.receive(LIMIT)
    wait_until(lambda: not served.door._visitors)
    with served.visit() as client:
        assert client.call("info")


def test_without_a_descriptor_left_it_goes_on_later(served: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with served.visit() as first:
        first.call("info")
        second = served.connect()  # waits to be accepted, or is already
        third = socket.socket(socket.AF_UNIX)
        used = len(os.listdir("/proc/self/fd")) - 1
        fillers = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(os.dup(0))
            third.connect(str(served.path))
            begun = time.process_time()
            time.sleep(0.5)
            assert time.process_time() - begun < 0.3, "it tries again and again"
            assert first.call("info")
        finally:
            for filler in fillers:
                os.close(filler)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        third.settimeout(None)
        with Client(third) as client:
            assert client.call("info")
        second.close()


@pytest.mark.root
def test_another_user_is_refused() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        served = Served(folder / "socket")
        served.path.chmod(0o777)

        def check() -> None:
            with served.visit() as client, pytest.raises(UsageError, match="belongs to another user"):
                client.receive(LIMIT)

        as_nobody(check)
        assert served.got == []
        served.close()


def test_who_waits_is_told_the_end(served: Served) -> None:
    with served.visit() as early, served.visit() as late, served.visit() as other:
        early.ask("wait")
        other.call("info")
        time.sleep(0.1)
        outcome = Outcome(exit_code=137, signal=9, reason="a reason")
        served.do(lambda: served.door.ended(outcome))
        ended = {"event": "ended", "code": 137, "signal": 9, "reason": "a reason"}
        assert early.receive(LIMIT) == ended
        assert early.receive(LIMIT) == {"event": "gone"}
        assert late.call("wait") == ended
        assert other.call("info")["status"] == "ended"


def test_a_door_that_changes_its_loop(served: Served) -> None:
    """As one does that is open before there is a VM: connections stay."""
    with served.visit() as client:
        client.call("info")
        moved = threading.Event()

        def move() -> None:
            served.door.detach()
            served.door.attach(served.loop, None)
            moved.set()

        served.do(move)
        assert moved.wait(LIMIT)
        assert client.call("info")


def test_connections_that_are_handed_over(served: Served) -> None:
    ours, theirs = socket.socketpair()
    served.do(lambda: served.door.adopt(theirs))
    with Client(ours) as client:
        assert client.call("info")
