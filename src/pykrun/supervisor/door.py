"""A VM's door: where others of the same user ask it for things, further commands above all (docs/exec.md)."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping

from pykrun.errors import EngineError, PykrunError, UsageError
from pykrun.loop import IN, Loop
from pykrun.plain_json import dumps
from pykrun.start_data import LONGEST_GRACE
from pykrun.supervisor.facts import facts
from pykrun.supervisor.visitor import Handler, Visitor
from pykrun.vms import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykrun.request import Outcome
    from pykrun.supervisor.control import Exit
    from pykrun.supervisor.vm import VirtualMachine

MOST = 1024
"""Connections at a time."""
BREAK = 0.1
"""Seconds without new connections when this process has no descriptor left for one."""
VM_ENDED = "the VM ended before the command did"
LARGEST_SIZE = 65535


class Door:
    """Serves any number of connections, one after the other or at once; none of them is waited for.

    Before there is a VM (`attach` with None) and after its end it answers what it can.

    :param listener: where they come from; closed with the door. None for those that are handed over (`adopt`).
    :param handlers: further requests by name, or others in place of the door's own.
    :param info: returns what is told of the VM, in place of `Door.info`.
    """

    def __init__(
        self,
        listener: socket.socket | None = None,
        handlers: Mapping[str, Handler] | None = None,
        info: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._listener = listener
        self._visitors: set[Visitor] = set()
        self._loop: Loop | None = None
        self._queue: list[tuple[Visitor, bytes, list[int | None]]] = []
        self.vm: VirtualMachine | None = None
        self.outcome: Outcome | None = None
        self._handlers: dict[str, Handler] = {
            "exec": self._exec,
            "signal": self._signal,
            "resize": self._resize,
            "info": lambda visitor, *_: visitor.answer("info", **(info or self.info)()),
            "wait": self._wait,
            "stop": self._stop,
            "end": self._end,
            "pause": self._pause,
            "resume": self._resume,
            **(handlers or {}),
        }

    # -- the loop ----------------------------------------------------------------------------------------------

    def attach(self, loop: Loop, vm: VirtualMachine | None) -> None:
        """Serve through that loop (`Remote`)."""
        self._loop, self.vm = loop, vm
        self._listen()
        for visitor in self._visitors:
            visitor.attach(loop)

    def detach(self) -> None:
        """Serve no more, until another `attach`; connections stay open."""
        if self._loop is None:
            return
        for visitor in self._visitors:
            visitor.detach()
        if self._listener is not None:
            self._loop.remove(self._listener.fileno())
        self._loop = self.vm = None

    def adopt(self, connection: socket.socket) -> None:
        """Take a connection that needs no questions asked."""
        visitor = Visitor(connection, self._handle, self._on_leave)
        self._visitors.add(visitor)
        if self._loop is not None:
            visitor.attach(self._loop)

    def close(self) -> None:
        """Close all of it; who still waits finds the connection ended."""
        for visitor in list(self._visitors):
            visitor.close()
        self._forget_queue()
        self.detach()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _on_leave(self, visitor: Visitor) -> None:
        """Forget who has closed his connection, and what he was waiting for."""
        self._visitors.discard(visitor)
        for entry in [entry for entry in self._queue if entry[0] is visitor]:
            self._queue.remove(entry)
            _close(entry[2])

    def _listen(self) -> None:
        if self._listener is not None and self._loop is not None:
            self._listener.setblocking(False)
            self._loop.remove(self._listener.fileno())  # after a break it may listen again already
            self._loop.add(self._listener.fileno(), IN, self._on_connection)

    def _on_connection(self, _events: int) -> None:
        assert self._listener is not None
        assert self._loop is not None
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # no descriptor left: it would be tried again and again
            self._loop.remove(self._listener.fileno())
            self._loop.call_later(BREAK, self._listen)
            return
        refusal = ""
        if peer(connection) not in (os.geteuid(), 0):
            refusal = "this VM belongs to another user"
        elif len(self._visitors) >= MOST:
            refusal = f"there are {MOST} connections to this VM, and that is all that there may be"
        visitor = Visitor(connection, self._handle, self._on_leave)
        if refusal:
            visitor.refuse(UsageError(refusal))
            visitor.close()
            return
        self._visitors.add(visitor)
        visitor.attach(self._loop)

    # -- the VM ------------------------------------------------------------------------------------------------

    def reached(self, phase: str, when: float) -> None:
        """What waited for the workload can begin (`Remote`)."""
        if phase == "started" and self._loop is not None:
            self._loop.call_later(0, self._begin_queued)

    def input_unread(self) -> None:
        """The door has no input (`Remote`)."""

    def ended(self, outcome: Outcome) -> None:
        """Tell who waits (`Remote`)."""
        self.outcome = outcome
        for visitor in list(self._visitors):
            if visitor.waits:
                self._tell_end(visitor)
            elif visitor.command is not None:
                visitor.command = None  # it is gone as everything else
                visitor.answer("ended", code=128 + signal.SIGKILL, signal=int(signal.SIGKILL), reason=VM_ENDED)
                visitor.leave()
        self._forget_queue()

    def info(self) -> dict[str, Any]:
        """What is told of the VM."""
        if self.outcome is not None:
            return {"pid": os.getpid(), "status": "ended"}
        return facts(self.vm)

    # -- requests ----------------------------------------------------------------------------------------------

    def _handle(self, visitor: Visitor, message: Message, descriptors: list[int]) -> None:
        name = message.get("request")
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            raise UsageError(f"there is no request {name!r}", f"there are {', '.join(sorted(self._handlers))}")
        handler(visitor, message, descriptors)

    def _running(self) -> VirtualMachine:
        if self.vm is None:
            raise EngineError("the VM does not run (any more)")
        return self.vm

    def _exec(self, visitor: Visitor, message: Message, descriptors: list[int]) -> None:
        process, given = message.get("process"), message.get("streams", [True, True, True])
        if not isinstance(process, dict):
            raise UsageError("exec needs a process, an object")
        if not isinstance(given, list) or len(given) != 3 or sum(map(bool, given)) != len(descriptors):
            raise UsageError("exec needs streams, three times true or false, and as many descriptors as there are true")
        if visitor.is_taken:
            raise UsageError("this connection has its command", "one connection for each")
        vm = self._running()
        if not vm.tells:
            raise EngineError("no further command can run in this VM: its PID 1 is not pykrun's init")
        try:
            description = dumps(process).encode()
        except (RecursionError, ValueError):
            raise UsageError("exec needs a process without infinite numbers, and not nested so deeply") from None
        visitor.is_taken = True
        streams: list[int | None] = [descriptors.pop(0) if one else None for one in given]
        self._queue.append((visitor, description, streams))
        if vm.has_started:
            self._begin_queued()

    def _begin_queued(self) -> None:
        queue, self._queue = self._queue, []
        for visitor, process, streams in queue:
            if visitor.is_open:
                try:
                    self._begin(visitor, process, streams)
                except PykrunError as error:
                    visitor.refuse(error)
                except OSError as error:  # a descriptor that nothing can be done with
                    visitor.refuse(UsageError(f"one of the streams is none: {error.strerror}"))
            _close(streams)

    def _begin(self, visitor: Visitor, process: bytes, streams: list[int | None]) -> None:
        def on_end(how: Exit) -> None:
            visitor.command = None
            visitor.answer("ended", code=how.code, signal=how.signal, reason=how.reason)
            visitor.leave()

        stdin, stdout, stderr = streams
        visitor.command = self._running().commands.start(
            process,
            (stdin, stdout, stderr),
            on_started=lambda pid: visitor.answer("started", pid=pid),
            on_end=on_end,
        )
        streams.clear()  # they are the command's now
        for number in visitor.early:
            visitor.command.signal(number)

    def _forget_queue(self) -> None:
        queue, self._queue = self._queue, []
        for visitor, _, streams in queue:
            visitor.refuse(EngineError("the VM ended before its workload ran"))
            visitor.leave()
            _close(streams)

    def _signal(self, visitor: Visitor, message: Message, _: list[int]) -> None:
        """To the connection's command; to the workload where it has asked for none."""
        number = whole(message, "number", 1, signal.NSIG - 1)
        if visitor.command is not None:
            visitor.command.signal(number)
        elif visitor.is_taken:
            visitor.early.append(number)
        else:
            self._running().send_signal(number)
            visitor.answer("done")

    def _resize(self, visitor: Visitor, message: Message, _: list[int]) -> None:
        rows, columns = (whole(message, name, 0, LARGEST_SIZE) for name in ("rows", "columns"))
        if visitor.command is not None:
            visitor.command.resize(rows, columns)

    def _wait(self, visitor: Visitor, *_: object) -> None:
        visitor.waits = True
        if self.outcome is not None:
            self._tell_end(visitor)

    def _tell_end(self, visitor: Visitor) -> None:
        assert self.outcome is not None
        code, reason = self.outcome.exit_code, self.outcome.reason
        visitor.answer("ended", code=code, signal=self.outcome.signal, reason=reason)
        visitor.leave()

    def _stop(self, visitor: Visitor, message: Message, _: list[int]) -> None:
        grace = message.get("grace")
        if grace is not None and not (isinstance(grace, int | float) and 0 <= grace <= LONGEST_GRACE):
            raise UsageError(f"grace is a number of seconds, not {grace!r}")
        self._running().stop(None if grace is None else float(grace))
        visitor.answer("done")

    def _end(self, visitor: Visitor, message: Message, _: list[int]) -> None:
        code = whole(message, "code", 0, 255) if "code" in message else 128 + signal.SIGKILL
        self._running().end(code)
        visitor.answer("done")

    def _pause(self, visitor: Visitor, *_: object) -> None:
        self._running().pause()
        visitor.answer("done")

    def _resume(self, visitor: Visitor, *_: object) -> None:
        self._running().resume()
        visitor.answer("done")


def peer(connection: socket.socket) -> int:
    """Return the user id of who connected (SO_PEERCRED, unix(7))."""
    _, user, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


def whole(message: Message, name: str, least: int, largest: int) -> int:
    """Return a number of a request.

    :raise UsageError: it is none, or out of bounds.
    """
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= largest:
        raise UsageError(f"{name} is a whole number from {least} to {largest}, not {value!r}")
    return value


def _close(streams: list[int | None]) -> None:
    for stream in streams:
        if stream is not None:
            os.close(stream)
