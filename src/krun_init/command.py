"""One further command: its start, its streams, its signals, its end."""

from __future__ import annotations

import posix
from _struct import Struct

from krun_init import channels, launch, relay, session, workload
from krun_init import control as frames
from krun_init.errors import Ending, InitError, ProtocolError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from krun_init.control import Control, Values
    from krun_init.execution import Execution

SIGKILL = 9
_LAST_SIGNAL = 64
_O_PATH = 0o10000000  # asm-generic/fcntl.h

_U8 = Struct("<B")
_I32 = Struct("<i")
_U32 = Struct("<I")


def start(what: Execution) -> tuple[int, list[int]] | Ending:
    """Execute it: its pid and our ends of its streams, standard input first; or why it could not be executed.

    :raise InitError: a step before the execution failed.
    """
    try:
        theirs, ours = _open_terminal(what) if what.terminal else _open_pipes(what)
    except OSError as error:
        raise InitError(f"no {'terminal' if what.terminal else 'pipes'} for a command: {reason_of(error)}") from None
    pid: int | Ending | None = None
    try:
        pid = _spawn(what, theirs)
    finally:
        _close(theirs)
        if not isinstance(pid, int):
            _close(ours)
    return pid if isinstance(pid, Ending) else (pid, ours)


def _open_pipes(what: Execution) -> tuple[list[int], list[int]]:
    theirs: list[int] = []
    ours: list[int] = []
    try:
        for stream in range(3):
            reader, writer = relay.make_pipe(what.program.user)
            theirs.append(writer if stream else reader)
            ours.append(reader if stream else writer)
    except OSError:
        _close(theirs + ours)
        raise
    return theirs, ours


def _open_terminal(what: Execution) -> tuple[list[int], list[int]]:
    user = what.program.user
    master, terminal = channels.open_terminal(0 if user is None else user.uid)
    if what.window is not None:
        session.resize(master, *what.window)
    try:
        return [terminal, terminal, terminal], [master, posix.dup(master)]
    except OSError:
        _close([master, terminal])
        raise


def _close(descriptors: list[int]) -> None:
    for fd in set(descriptors):
        posix.close(fd)


def _spawn(what: Execution, streams: list[int]) -> int | Ending:
    """In a session of its own, and in its directory: where we are meanwhile, for the child begins there."""
    terminal = streams[0] if what.terminal else -1
    here = -1 if what.cwd is None else _open_here()
    try:
        if what.cwd is not None:
            workload.enter(posix.chdir, what.cwd)
        return launch.spawn(what.program, (streams[0], streams[1], streams[2]), launch.OWN_SESSION, terminal)
    finally:
        if what.cwd is not None:
            _return(here)


def _open_here() -> int:
    try:
        return posix.open(".", _O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError:
        return -1


def _return(here: int) -> None:
    """Go back to where we were; to the root if somebody has removed that: no command may be the end of us."""
    if here >= 0:
        try:
            posix.fchdir(here)
            return
        except OSError:
            pass
        finally:
            posix.close(here)
    posix.chdir("/")


class Command:
    """A command that runs, until its last byte is with the host.

    :ivar ending: how its process ended, None while it has not.
    :param ends: our ends of its streams; taken over.
    :param on_finished: called once with the number and `ending` when the last byte of its output was sent.
    """

    def __init__(
        self,
        number: int,
        pid: int,
        ends: list[int],
        terminal: bool,
        control: Control,
        poll: channels.Poll,
        on_finished: Callable[[int, Ending], None],
    ) -> None:
        self.ending: Ending | None = None
        self._number = number
        self._pid = pid
        self._control = control
        self._on_finished = on_finished
        self._told = False
        self._master = ends[0] if terminal else -1
        self._say(frames.STARTED, _I32.pack(pid))
        self._input = channels.Input(
            poll,
            ends[0],
            terminal,
            lambda size: self._say(frames.INPUT_CREDIT, _U32.pack(size)),
            lambda: self._say(frames.CLOSE, _U8.pack(0)),
        )
        self._outputs = [
            channels.Output(poll, fd, terminal, self._sender(_U8.pack(stream)), self._look)
            for stream, fd in enumerate(ends[1:], start=1)
        ]

    def _say(self, kind: int, body: bytes) -> None:
        self._control.send(kind, body, self._number)

    def _sender(self, stream: bytes) -> Callable[[bytes], None]:
        return lambda data: self._say(frames.OUTPUT, stream + data)

    # -- what the host says ------------------------------------------------------------------------------------

    def on_frame(self, kind: int, values: Values) -> None:
        """Act on a frame.

        :raise ProtocolError: input beyond its credit.
        """
        if kind == frames.INPUT:
            if not self._input.take(values[0]):
                raise ProtocolError(f"input of process {self._number} beyond its credit")
        elif kind == frames.CREDIT:
            output = self._output(values[0])
            if output is not None:
                output.grant(values[1])
        elif kind == frames.CLOSE_OUTPUT:
            output = self._output(values[0])
            if output is not None:
                output.close()
                if self._master >= 0:
                    self._input.close()  # the other one of the master: now it hangs up
        elif kind == frames.STDIN_END:
            self._input.end()
        elif kind == frames.SIGNAL:
            self.signal(values[0])
        elif kind == frames.RESIZE and self._master >= 0 and not self._input.closed:
            session.resize(self._master, *values)

    def _output(self, stream: int) -> channels.Output | None:
        return self._outputs[stream - 1] if 0 < stream <= len(self._outputs) else None

    def signal(self, number: int) -> None:
        """Send to its process group, or to itself if it has left that."""
        if self.ending is not None or not 0 < number <= _LAST_SIGNAL:
            return
        for send in (posix.killpg, posix.kill):
            try:
                send(self._pid, number)
                return
            except OSError:
                pass

    # -- its end -----------------------------------------------------------------------------------------------

    def finish(self, ending: Ending) -> None:
        """Its process has ended; what its streams hold now still counts."""
        self.ending = ending
        self._input.close()
        for output in self._outputs:
            output.finish()
        self._look()

    def _look(self) -> None:
        if self.ending is not None and not self._told and all(output.closed for output in self._outputs):
            self._told = True
            self._on_finished(self._number, self.ending)
