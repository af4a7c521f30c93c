"""The shim's own process: waits for a request, runs it, says how it went."""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket

from pykrun.errors import PykrunError, UsageError
from pykrun.host import limits
from pykrun.loop import IN, Loop
from pykrun.request import Descriptor, Port, Request, Serial
from pykrun.shim.client import CONNECTION
from pykrun.shim.codec import Encoder, decode
from pykrun.shim.events import END, HEARD, SIGNAL, STOP, VISIT, Ended, Event, Failed, Named, Reached
from pykrun.shim.wire import Plain, Receiver, send
from pykrun.supervisor import VirtualMachine, make_plan, run_plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Never

    from pykrun.request import Outcome

FAILED = 125
_QUIET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""What is dropped until there is a VM: it was meant for the caller, whose end we hear of otherwise."""
_AHEAD = (
    "json",
    "pykrun.blob",
    "pykrun.fs.passthrough",
    "pykrun.supervisor.listing",
    "pykrun.supervisor.shares",
    "pykrun.supervisor.timesync",
    "pykrun.supervisor.wiring",
    "zlib",
)
"""Modules that a run imports when it comes to them, while the guest's kernel boots. If the caller still thinks about
the request, here is time for it before."""
_SAYING = 5.0
"""Seconds that a caller who does not listen has for our last words."""


def main() -> Never:
    """Run one request that comes over the inherited socket; the exit status is the VM's, or 125."""
    os.closerange(CONNECTION + 1, 1 << 30)  # what the caller has without CLOEXEC: ends of its pipes, say
    for number in _QUIET:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    limits.allow_descriptors()
    limits.forbid_core_file()
    connection = socket.socket(fileno=CONNECTION)
    os.set_inheritable(CONNECTION, False)
    line = Line(connection)
    for name in _AHEAD:
        if line.is_waiting():
            break
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    code = FAILED
    if (request := line.request()) is not None:
        code = _run(request, line)
    os._exit(code)


def _run(request: Request, line: Line) -> int:
    last: Event
    code = FAILED
    try:
        plan = make_plan(request)
        line.release(request)
        _change_ids(request)
        outcome = run_plan(plan, line)
        last, code = Ended(outcome), outcome.exit_code
    except PykrunError as error:
        last = Failed(type(error).__name__, error.message, error.hint)
    except OSError as error:
        name = f": {error.filename!r}" if error.filename else ""
        last = Failed("PykrunError", f"{error.strerror or error}{name}", "", error.errno or 0)
    except Exception as error:
        from traceback import format_exc

        os.write(2, format_exc().encode(errors="surrogateescape"))
        last = Failed("Exception", f"internal error: {error!r}", "please report it")
    line.say(last, patience=_SAYING)
    return code


def _change_ids(request: Request) -> None:
    """Become who the caller wants us to be, without further groups, the group first: the user may not change it.

    :raise OSError: we may not.
    :raise UsageError: we could not go on as such: Python and pykrun are out of reach.
    """
    if request.uid is None and request.gid is None:
        return
    try:
        os.setgroups([])
    except PermissionError:  # then the ids can only be ours already, or fail below
        pass
    for what, change, number in (("group", os.setgid, request.gid), ("user", os.setuid, request.uid)):
        if number is not None:
            try:
                change(-1 if number == (1 << 32) - 1 else number)  # which Python takes for too large
            except OSError as error:
                raise OSError(error.errno, f"cannot change to {what} id {number}: {error.strerror}") from None
    from pykrun.host.linux import set_dumpable

    set_dumpable(True)  # else what /proc has of us is root's, and no user namespace could be made
    for file in (os.__file__, __file__):
        if not os.access(file, os.R_OK):
            raise UsageError(f"user id {os.getuid()} may not read {file!r}", "install it where everybody may")


class Line:
    """The connection to the caller, before the run and, as its `Remote`, during it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._receiver = Receiver(connection)
        self._received: list[int] = []
        self._input: int | None = None
        self._loop: Loop | None = None
        self._vm: VirtualMachine | None = None
        self._shutdown = self._owner = -1

    def is_waiting(self) -> bool:
        """Whether the caller has said something, or is gone."""
        poll = select.poll()
        poll.register(CONNECTION, select.POLLIN)
        return bool(poll.poll(0))

    def request(self) -> Request | None:
        """Wait for the request; None when the caller went away without one."""
        while (taken := self._receiver.take()) is None:
            if self._receiver.ended:
                return None
            self._receiver.fetch()
        message, self._received = taken
        request = decode(message, self._received)
        assert isinstance(request, Request)
        return request

    def release(self, request: Request) -> None:
        """Close what the plan has opened for itself by now."""
        self._input = None if request.stdin is None else request.stdin.number
        streams = (request.stdin, request.stdout, request.stderr, request.boot_log, request.console_output)
        ports: list[Port | Serial] = [port for console in request.consoles for port in console.ports]
        ends = [end for one in (*ports, *request.serials) for end in (one.input, one.output)]
        files = (
            request.kernel,
            request.firmware,
            request.modules,
            request.initramfs,
            *(port.folder for port in request.vsock),
        )
        ends += [link.end for link in request.links]
        later = (*streams, *ends, *files, request.shutdown, request.owner)
        kept = {place.number for place in later if isinstance(place, Descriptor)}
        self._shutdown = -1 if request.shutdown is None else request.shutdown.number
        self._owner = -1 if request.owner is None else request.owner.number
        for descriptor in self._received:
            if descriptor not in kept:
                os.close(descriptor)

    def say(self, event: Event, patience: float = 0.0) -> None:
        """Tell the caller; who does not listen misses it."""
        self._connection.settimeout(patience)
        encoder = Encoder()
        try:
            send(self._connection, encoder.encode(event))
        except OSError:
            pass
        finally:
            self._connection.settimeout(None)

    # Remote

    def attach(self, loop: Loop, vm: VirtualMachine) -> None:
        """Listen for commands."""
        self._loop, self._vm = loop, vm
        loop.add(CONNECTION, IN, self._on_event)
        if self._shutdown >= 0:
            loop.add(self._shutdown, IN, self._on_shutdown)
        if self._owner >= 0:
            loop.add(self._owner, IN, self._on_owner_end)
        self.say(Named("" if vm.door is None else vm.door.name))
        self._obey()

    def detach(self) -> None:
        """Listen no more."""
        if self._loop is not None:
            for descriptor in (CONNECTION, self._shutdown, self._owner):
                self._forget(descriptor)
            self._loop = self._vm = None

    def _forget(self, descriptor: int) -> None:
        if self._loop is not None and descriptor >= 0:
            self._loop.remove(descriptor)

    def _on_shutdown(self, _events: int) -> None:
        self._forget(self._shutdown)
        self._shutdown = -1
        if self._vm is not None:
            self._vm.stop()

    def _on_owner_end(self, _events: int) -> None:
        self._forget(self._owner)
        self._owner = -1
        self._abandoned()

    def _abandoned(self) -> None:
        if self._vm is not None:
            self._vm.end(128 + signal.SIGKILL, "the VM was ended: nobody waits for it any more")

    def reached(self, phase: str, when: float) -> None:
        """Tell the caller how far the run is."""
        self.say(Reached(phase, when))

    def input_unread(self) -> None:
        """Close it, so that who writes to it hears of that, as from a command of its own."""
        if self._input is not None:
            os.close(self._input)
            self._input = None

    def ended(self, outcome: Outcome) -> None:
        """It is the last thing that is said, when all of the VM is gone."""

    def _on_event(self, _events: int) -> None:
        self._receiver.fetch()
        self._obey()
        if self._receiver.ended and self._vm is not None and self._loop is not None:
            self._loop.remove(CONNECTION)
            self._abandoned()

    def _obey(self) -> None:
        while (taken := self._receiver.take()) is not None:
            message, descriptors = taken
            if self._vm is not None and isinstance(message, tuple):
                _obey(self._vm, message, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)


def _obey(vm: VirtualMachine, command: tuple[Plain, ...], descriptors: list[int]) -> None:
    match command:
        case (kind,) if kind == VISIT:
            if vm.door is not None:
                vm.door.adopt(socket.socket(fileno=descriptors.pop()))
        case (kind, int(number)) if kind == SIGNAL:
            vm.send_signal(number)
        case (kind, float() | int() | None as grace, int(code)) if kind == STOP:
            vm.stop(grace, code)
        case (kind, int(code)) if kind == END:
            vm.end(code)
        case (kind, int(number)) if kind == HEARD:
            vm.hear(number)
