"""Further commands in a VM of `pykrun run`, driven from the test over a socket to a `Remote` in the supervisor."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from types import TracebackType
from typing import Any

from tests.boot.vm import LIMIT, Result, Vm, Word, finish

_PRELUDE = """
import json, os, socket
import pykrun.supervisor as supervisor
from pykrun.errors import UsageError
run_plan = supervisor.run_plan
connection = socket.socket(fileno={fd})
def say(*event):
    connection.send(json.dumps(event).encode())
class Driver:
    commands = {{}}
    def attach(self, loop, vm):
        self.loop, self.vm = loop, vm
        loop.add(connection.fileno(), 1, self.on_event)
    def detach(self):
        self.loop.remove(connection.fileno())
    def reached(self, phase, when):
        say("reached", phase)
    def ended(self, outcome):
        pass
    def input_unread(self):
        pass
    def on_event(self, events):
        message, fds, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if not message:
            self.loop.remove(connection.fileno())
            return
        kind, name, *values = json.loads(message)
        if kind == "start":
            self.start(name, fds, *values)
        elif kind == "vm":
            getattr(self.vm, name)(*values)
        else:
            getattr(self.commands[name], kind)(*values)
    def start(self, name, fds, process, has):
        fds = iter(fds)
        streams = tuple(next(fds) if one else None for one in has)
        try:
            self.commands[name] = self.vm.commands.start(
                process.encode(), streams,
                on_started=lambda pid: say("started", name, pid),
                on_end=lambda how: say("ended", name, how.code, how.signal, how.reason))
        except UsageError as error:
            say("refused", name, str(error))
            for fd in streams:
                if fd is not None:
                    os.close(fd)
supervisor.run_plan = lambda plan, *remotes: run_plan(plan, Driver(), *remotes)
"""


class Session:
    """A VM that runs, and the commands in it; ended at the latest with the context."""

    def __init__(self, vm: Vm, *words: Word, **streams: Any) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        vm.pykrun.prelude = _PRELUDE.format(fd=theirs.fileno())
        with theirs:
            streams.setdefault("start_new_session", True)
            self.process: subprocess.Popen[bytes] = vm.start(*words, pass_fds=(theirs.fileno(),), **streams)
        self.events: list[list[Any]] = []
        self._condition = threading.Condition()
        self._count = 0
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self._thread.join()
        self._ours.close()

    def _listen(self) -> None:
        while message := self._ours.recv(1 << 20):
            with self._condition:
                self.events.append(json.loads(message))
                self._condition.notify_all()

    def wait_for(self, *begin: Any, limit: float = LIMIT) -> list[Any]:
        """The first event that begins so, once it came."""

        def look() -> list[Any] | None:
            return next((event for event in self.events if event[: len(begin)] == list(begin)), None)

        with self._condition:
            found = self._condition.wait_for(look, limit)
        assert found is not None, f"no {begin} in {self.events}"
        return found

    def say(self, *message: Any, fds: tuple[int, ...] = ()) -> None:
        socket.send_fds(self._ours, [json.dumps(message).encode()], fds)

    def start(self, *argv: str, streams: tuple[int | None, int | None, int | None], **process: Any) -> int:
        """Start a command with these descriptors, which stay ours."""
        self._count += 1
        given = tuple(fd for fd in streams if fd is not None)
        description = json.dumps({"args": argv, **process})
        self.say("start", self._count, description, [fd is not None for fd in streams], fds=given)
        return self._count

    def wait(self, number: int, limit: float = LIMIT) -> tuple[int, int, str]:
        """Code, signal and reason of a command."""
        _kind, _number, code, which, reason = self.wait_for("ended", number, limit=limit)
        return code, which, reason

    def run(self, *argv: str, stdin: bytes = b"", limit: float = LIMIT, **process: Any) -> Result:
        """Run a command to its end: its code and what it wrote."""
        command = Piped(self, *argv, **process)
        command.feed(stdin)
        return command.finish(limit)

    def end(self, limit: float = LIMIT) -> Result:
        """End the VM by SIGTERM to its workload."""
        self.say("vm", "send_signal", int(signal.SIGTERM))
        return finish(self.process, None, limit)


class Piped:
    """A command with three pipes, whose output is read by threads."""

    def __init__(self, session: Session, *argv: str, **process: Any) -> None:
        self._session = session
        ends = [os.pipe() for _ in range(3)]
        theirs = (ends[0][0], ends[1][1], ends[2][1])
        self.stdin = ends[0][1]
        self.number = session.start(*argv, streams=theirs, **process)
        for fd in theirs:
            os.close(fd)
        self.out = [bytearray(), bytearray()]
        self._threads = [
            threading.Thread(target=self._read, args=(reader, kept))
            for (reader, _writer), kept in zip(ends[1:], self.out, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, fd: int, kept: bytearray) -> None:
        while data := os.read(fd, 1 << 16):
            kept += data
        os.close(fd)

    def feed(self, data: bytes, *, end: bool = True) -> None:
        """Write to its standard input; a reader that is gone is fine."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self.stdin, left) :]
        except BrokenPipeError:
            pass
        if end:
            os.close(self.stdin)

    def finish(self, limit: float = LIMIT) -> Result:
        """Wait for its end."""
        code, _signal, reason = self._session.wait(self.number, limit)
        for thread in self._threads:
            thread.join(limit)
        return Result(code, bytes(self.out[0]), bytes(self.out[1]) + reason.encode())


class Terminal:
    """A command on a terminal; what it writes, and the keys for it, are a socket here."""

    def __init__(self, session: Session, *argv: str, **process: Any) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            self.number = session.start(*argv, streams=(fd, fd, None), terminal=True, **process)
        self._ours.settimeout(LIMIT)
        self.seen = b""

    def type(self, keys: bytes) -> None:
        self._ours.sendall(keys)

    def end_input(self) -> None:
        self._ours.shutdown(socket.SHUT_WR)

    def see(self, wanted: bytes) -> None:
        """Read until that was written."""
        while wanted not in self.seen:
            data = self._ours.recv(65536)
            assert data, self.seen
            self.seen += data

    def rest(self) -> bytes:
        """Read to the end."""
        while data := self._ours.recv(65536):
            self.seen += data
        self._ours.close()
        return self.seen
