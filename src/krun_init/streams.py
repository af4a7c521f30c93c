"""How the workload's 0, 1 and 2 reach the host: relay, ports, or console (docs/start-data.md)."""

from __future__ import annotations

import posix

from krun_init import commands, launch, ports, relay, session
from krun_init.errors import SETUP_FAILED, Ending
from krun_init.loop import Loop
from krun_init.watch import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from krun_init.config import Config
    from krun_init.control import Control
    from krun_init.dhcp.keeper import Keeper
    from krun_init.log import Log
    from krun_init.places import Places
    from krun_init.start import Start
    from krun_init.timesync import Clock
    from krun_init.user import User
    from krun_init.workload import Workload

_MODES = (posix.O_RDONLY, posix.O_WRONLY, posix.O_WRONLY)


class Ends:
    """Both ends of the streams: the workload's descriptors, and for the relay the ports and init's pipe ends."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.workload = [-1, -1, -1]
        self.session = launch.OWN_GROUP
        self.terminal = -1
        self.control_terminal = 0
        self.pipes: dict[int, int] = {}
        self.ports: dict[int, int] = {}
        self.devices: dict[int, str] = {}

    def streams(self) -> tuple[int, int, int]:
        """The workload's descriptors, -1 where it keeps init's."""
        return self.workload[0], self.workload[1], self.workload[2]

    def splice_test(self, stream: int) -> Callable[[], bool]:
        """A function that tells, when it is called, whether splice(2) into the stream's port is safe."""
        return lambda: ports.can_splice(self.places, self.devices[stream])

    def close_workload(self) -> None:
        """Close init's copies of the workload's descriptors."""
        for fd in set(self.workload):
            if fd >= 0 and fd != self.terminal:
                posix.close(fd)


def prepare(data: Start, conf: Config, user: User | None, found: dict[str, str], places: Places, pid1: bool) -> Ends:
    """Open everything. PID 1 that becomes the workload cannot relay: it gets the ports themselves.

    :raise InitError: a port or the terminal that was promised is not there.
    """
    ends = Ends(places)
    if data.terminal:
        _prepare_terminal(ends, data, user)
    elif conf.terminal and not data.present:
        ends.session = launch.OWN_SESSION
    elif data.streams == "relay" and not pid1:
        _prepare_relay(ends, user, found)
    elif data.streams != "console":
        for stream, name in enumerate(ports.STREAMS):
            if name in found:
                ends.workload[stream] = ports.open_port(places, found[name], _MODES[stream])
    return ends


def _prepare_terminal(ends: Ends, data: Start, user: User | None) -> None:
    terminal = session.open_terminal(ends.places)
    if user is not None and user.uid:
        posix.fchown(terminal, user.uid, -1)
    if data.window is not None:
        session.resize(terminal, *data.window)
    ends.workload = [terminal, terminal, terminal]
    ends.session = launch.OWN_SESSION
    ends.terminal = ends.control_terminal = terminal


def _prepare_relay(ends: Ends, user: User | None, found: dict[str, str]) -> None:
    ends.control_terminal = -1
    for stream, name in enumerate(ports.STREAMS):
        device = found.get(name)
        if device is None:
            continue
        ends.ports[stream] = ports.open_port(ends.places, device, _MODES[stream] | posix.O_NONBLOCK)
        ends.devices[stream] = device
        reader, writer = relay.make_pipe(user)
        ends.workload[stream], ends.pipes[stream] = (writer, reader) if stream else (reader, writer)


def start(program: Workload, ends: Ends) -> int | Ending:
    """Start the workload: its pid, or why it could not be executed.

    :raise InitError: a step before the execution failed.
    """
    pid = launch.spawn(program, ends.streams(), ends.session, ends.control_terminal)
    ends.close_workload()
    return pid


def watch(
    pid: int | Ending,
    program: Workload,
    ends: Ends,
    signals: int,
    log: Log,
    grace: float,
    clock: Clock | None,
    keeper: Keeper | None,
) -> Ending:
    """Watch the workload until it has ended and its output is with the host.

    :param keeper: what the network still needs, when it is due.
    """
    if isinstance(pid, Ending):
        return pid
    loop, control = Loop(), log.control
    watching = Watch(loop, signals, control, grace, clock)
    for stream, port in ends.ports.items():
        if stream:
            watching.outputs[stream] = relay.Output(loop, ends.pipes[stream], port, ends.splice_test(stream))
        else:
            on_closed = control.close_input if control is not None else _nothing
            watching.input = relay.Input(loop, port, ends.pipes[stream], on_closed)
    watching.terminal = ends.terminal
    if control is not None:
        watching.commands = commands.Commands(loop, control, program, log)
    if keeper is not None:
        loop.after("network", keeper.delay(), keeper.start)
    return watching.run(pid)


def _nothing() -> None:
    pass


def become(
    program: Workload,
    ends: Ends,
    control: Control | None,
    clock: Clock | None = None,
    keeper: Keeper | None = None,
) -> Ending:
    """KRUN_INIT_PID1: be the workload; returns only when that fails."""
    if keeper is not None:
        keeper.start()
    if control is not None:
        control.settle()
    ending = launch.become(program, ends.streams(), None if clock is None else clock.heir())
    return ending if isinstance(ending, Ending) else Ending(SETUP_FAILED, 0, "execute returned")
