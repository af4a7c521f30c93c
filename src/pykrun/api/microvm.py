"""A command in a VM, for callers that block: shaped after subprocess."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from typing import IO, Any, Self, Unpack, cast

from pykrun.api.further import Further
from pykrun.api.options import Options, Stream, has_image, make_request, words_of
from pykrun.api.result import Result
from pykrun.api.session import Session
from pykrun.api.streams import NAMES, Encoding, Lines, OnLine, Streams
from pykrun.errors import EngineError, UsageError
from pykrun.record import replace
from pykrun.request import Descriptor, Outcome

Command = Sequence[str | bytes | os.PathLike[str]]
SET_UP_FAILED = 125


class Running:
    """A VM on its way.

    What the blocking and the asyncio face of a running VM share: everything that does not wait."""

    def __init__(
        self,
        command: Command,
        streams: tuple[Stream, Stream, Stream],
        encoding: Encoding,
        on_lines: tuple[OnLine | None, OnLine | None, OnLine | None],
        options: Options,
        call: Callable[..., Any] = lambda function, *args: function(*args),
    ) -> None:
        self.args = words_of(command, optional=has_image(options))
        request = make_request(self.args, options)
        wanted = list(streams)
        for index, on_line in enumerate(on_lines[:2], 1):
            if on_line is not None:
                if wanted[index] not in (None, subprocess.PIPE):
                    raise UsageError(f"{NAMES[index]} goes to a function or elsewhere, not both")
                wanted[index] = subprocess.PIPE
        self.encoding = encoding
        self.ours: dict[str, int] = {}
        readers: dict[int, Callable[[bytes], None]] = {}
        with Streams(*wanted) as made:
            request = made.put_into(request)
            log = -1
            if on_lines[2] is not None:
                if request.boot_log is not None:
                    raise UsageError("a boot log goes to a file or to a function, not both")
                read, log = os.pipe2(os.O_CLOEXEC)
                request = replace(request, boot_log=Descriptor(log))
                readers[read] = self._lines(on_lines[2], call)
            try:
                for name in NAMES:
                    if (descriptor := made.take(name)) is None:
                        continue
                    on_line = on_lines[NAMES.index(name) - 1] if name != "stdin" else None
                    if on_line is None:
                        self.ours[name] = descriptor
                    else:
                        readers[descriptor] = self._lines(on_line, call)
                self.session = Session(request, readers)
            except BaseException:
                for descriptor in (*readers, *self.ours.values()):
                    os.close(descriptor)
                raise
            finally:
                if log >= 0:
                    os.close(log)

    def _lines(self, on_line: OnLine, call: Callable[..., Any]) -> Lines:
        return Lines(self.encoding, lambda line: call(on_line, line))

    def result(self, stdout: bytes | None = None, stderr: bytes | None = None) -> Result[Any]:
        """What came of it, once `session.ended` is done.

        :raise PykrunError: there was no VM, or it ended before the command did.
        """
        outcome = self.session.ended.result(0)
        captured = [None if data is None else self.encoding.decode(data) for data in (stdout, stderr)]
        return Result(
            args=self.args,
            exit_code=outcome.exit_code,
            signal=_signal_of(outcome),
            stdout=captured[0],
            stderr=captured[1],
            reason=outcome.reason,
            timing={name: when - self.session.begun for name, when in outcome.phases.items()},
            engine=outcome.engine,
            isolation=outcome.isolation,
            warnings=tuple(outcome.warnings),
        )


def _signal_of(outcome: Outcome) -> int:
    """What ended the command; where the VM was ended by us, that too is a KILL.

    :raise EngineError: the VM failed.
    """
    if outcome.exit_code == SET_UP_FAILED and outcome.reason:
        error = EngineError(outcome.reason)
        for line in outcome.console:
            error.add_note(f"| {line}")
        raise error
    if not outcome.signal and "exited" not in outcome.phases and outcome.exit_code > 128:
        return outcome.exit_code - 128
    return outcome.signal


class MicroVM:
    """A command running in a VM of its own, as `subprocess.Popen` is one running here.

    The VM is on its way when this returns. As a context manager it is asked to stop at the end of the block (TERM, a
    grace, KILL), or ended at once when the block raises.

    :param command: the words; the first is a path in the guest.
    :param stdin: as in subprocess: None for this process' own, PIPE, DEVNULL, a descriptor or an open file; likewise
        `stdout` and `stderr`, which may be STDOUT too.
    :param text: streams carry text; `encoding` and `errors` say which, as in subprocess.
    :param on_stdout: called, from a thread, with every line of standard output instead; likewise `on_stderr`.
    :param on_boot: called with every line of the guest kernel's console.
    :param options: see `Options`.
    :raise PykrunError: there can be no such VM.
    """

    def __init__(
        self,
        command: Command,
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        on_stdout: OnLine | None = None,
        on_stderr: OnLine | None = None,
        on_boot: OnLine | None = None,
        **options: Unpack[Options],
    ) -> None:
        chosen = Encoding.choose(text, encoding, errors)
        self._running = running = Running(
            command, (stdin, stdout, stderr), chosen, (on_stdout, on_stderr, on_boot), options
        )
        self.args = running.args
        self._asked = False
        self._taken: dict[str, bytearray] | None = None
        files = {name: chosen.open(number, "w" if name == "stdin" else "r") for name, number in running.ours.items()}
        self.stdin: IO[Any] | None = files.get("stdin")
        self.stdout: IO[Any] | None = files.get("stdout")
        self.stderr: IO[Any] | None = files.get("stderr")
        try:
            running.session.launched.result()
        except BaseException:
            self._asked = True
            self.kill()
            self._close_streams()
            running.session.ended.exception()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:
                self.kill()  # before all else: what stdin still holds may wait for a command that does not read
            if self.stdin is not None:
                _close(self.stdin)
            if kind is None and not self._has_ended:
                self.stop()
            self._wait(None)
        finally:
            self.kill()  # Ctrl-C, while we waited
            self._close_streams()
        if kind is None and not self._asked:
            self.result()  # that there was no VM should not go unheard

    def __del__(self) -> None:
        running = getattr(self, "_running", None)
        if running is not None and not running.session.ended.done():
            warnings.warn(f"VM {self.args!r} is still running: use `with`, or wait()", ResourceWarning, 2, self)

    @property
    def pid(self) -> int:
        """The process of this host that supervises the VM."""
        return self._running.session.pid

    @property
    def name(self) -> str:
        """What `pykrun ps` and `pykrun exec` call it; empty where VMs cannot be listed."""
        return self._running.session.name

    @property
    def exit_code(self) -> int | None:
        """The command's, as a shell would see it; None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit code, or None while the VM runs.

        :raise EngineError: the VM failed.
        """
        return self.result().exit_code if self._has_ended else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code.

        :param timeout: seconds.
        :raise subprocess.TimeoutExpired: it still runs, and goes on.
        :raise EngineError: the VM failed.
        """
        self._wait(timeout)
        return self.result().exit_code

    def result(self) -> Result[Any]:
        """What came of it, without streams; waits for the end.

        :raise EngineError: the VM failed.
        """
        self._wait(None)
        self._asked = True
        return self._running.result()

    def communicate(self, input: bytes | str | None = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Write `input` to the command, read all that it writes to pipes, and wait for its end.

        After a timeout it may be called again, without input: nothing is lost. As with subprocess, it knows nothing of
        text that `stdout.readline()` has read ahead: read by hand, or here.

        :return: what came of standard output and standard error, None where that is no pipe.
        :raise subprocess.TimeoutExpired: it still runs, and goes on; what was read so far is in the exception.
        :raise EngineError: the VM failed.
        """
        self._running.session.check_may_wait()
        if self._taken is None:
            self._taken = self._begin_communication(input)
        elif input:
            raise UsageError("communicate() has its input already", "call it again without")
        try:
            self._wait(timeout)
        except subprocess.TimeoutExpired as expired:
            expired.stdout, expired.stderr = self._captured(cut=True)
            raise
        self.result()
        return self._captured()

    def _begin_communication(self, input: bytes | str | None) -> dict[str, bytearray]:
        data = b"" if input is None else self._running.encoding.encode(input)
        if input and (self.stdin is None or self.stdin.closed):
            raise UsageError("input needs stdin=PIPE")
        session = self._running.session
        taken: dict[str, bytearray] = {}
        for name, stream in (("stdout", self.stdout), ("stderr", self.stderr)):
            if stream is not None and not stream.closed:
                descriptor, held = _take_over(stream)
                taken[name] = bytearray(held)
                session.read(descriptor, taken[name].extend)
        if self.stdin is not None and not self.stdin.closed:
            session.feed(_take_over_stdin(self.stdin), data)
        return taken

    def _captured(self, *, cut: bool = False) -> tuple[Any, Any]:
        decode, taken = self._running.encoding.decode, self._taken or {}
        out, err = (decode(bytes(taken[name]), cut=cut) if name in taken else None for name in NAMES[1:])
        return out, err

    def exec(
        self,
        command: Command,
        *,
        input: bytes | str | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
        capture_output: bool = True,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        check: bool = False,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: int | tuple[int, int] | str | None = None,
        rlimits: Mapping[str, tuple[int, int]] | None = None,
        tty: bool = False,
    ) -> Result[Any]:
        """Run one more command in this VM, wait for its end, and return what came of it; shaped as `pykrun.run`.

        It waits until the VM's own command runs, with whose environment, directory, user and limits it runs unless said
        otherwise. If the VM ends first, it was killed: signal 9, and a `reason`. Any number may run at a time.

        :param env: variables over the workload's.
        :param user: uid, or uid and gid, or `NAME[:GROUP]` that the guest knows.
        :param rlimits: as `{"nofile": (64, 128)}`, in place of the workload's.
        :param tty: it has a terminal of its own, whose output is standard output.
        :param timeout: seconds until the command is killed; the VM goes on.
        :raise subprocess.TimeoutExpired: it was killed; what it wrote is in the exception.
        :raise EngineError: the VM has ended, or cannot run further commands.
        """
        session = self._running.session
        session.check_may_wait()
        chosen = Encoding.choose(text, encoding, errors)
        streams = captured_streams(stdin, stdout, stderr, input, capture_output)
        data = b"" if input is None else chosen.encode(input)
        further = Further(
            session, command, streams, chosen, data, env=env, workdir=workdir, user=user, rlimits=rlimits, tty=tty
        )
        try:
            further.ended.exception(timeout)
        except FutureTimeout:
            further.kill()
            raise further.expired(cast(float, timeout)) from None
        except BaseException:  # Ctrl-C
            further.kill()
            raise
        return further.finish(check)

    def send_signal(self, number: int) -> None:
        """Send the command a signal; one that comes before it runs waits for it.

        :raise UsageError: there is no such signal.
        """
        self._running.session.send_signal(number)

    def terminate(self) -> None:
        """Send it SIGTERM, which it may ignore; `stop` is the way to an orderly end."""
        self.send_signal(signal.SIGTERM)

    def stop(self, grace: float | None = None) -> None:
        """Ask for an orderly end, and return: TERM for the command, KILL after `grace` seconds, disks synced.

        :param grace: None is the VM's own (`Options`); the longest is a million seconds, which infinity stands for.
        :raise UsageError: it is negative, or no number.
        """
        self._running.session.stop(grace)

    def kill(self) -> None:
        """End the VM at once."""
        self._running.session.kill()

    @property
    def _has_ended(self) -> bool:
        return self._running.session.ended.done()

    def _wait(self, timeout: float | None) -> None:
        if not self._has_ended:
            self._running.session.check_may_wait()
        try:
            self._running.session.ended.exception(timeout)
        except FutureTimeout:
            raise subprocess.TimeoutExpired(list(self.args), cast(float, timeout)) from None

    def _close_streams(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                _close(stream)


def _take_over(stream: IO[Any]) -> tuple[int, bytes]:
    """Take the descriptor out of a file object that is read, and the bytes that it has read ahead."""
    raw: IO[bytes] = stream.buffer if isinstance(stream, io.TextIOWrapper) else stream
    descriptor = os.dup(raw.fileno())
    held = b""
    os.set_blocking(descriptor, False)  # our end of a pipe that we have made
    assert isinstance(raw, io.BufferedReader)
    if data := raw.peek(1):
        held = raw.read(len(data))
    os.set_blocking(descriptor, True)
    _close(stream)
    return descriptor, held


def _take_over_stdin(stream: IO[Any]) -> int:
    """Take the descriptor out of a file object that is written; what it holds is written first."""
    try:
        stream.flush()
    except OSError:
        pass
    descriptor = os.dup(stream.fileno())
    _close(stream)
    return descriptor


def _close(stream: IO[Any]) -> None:
    try:
        stream.close()
    except BrokenPipeError:  # what it still held has no reader any more
        pass


def run(
    command: Command,
    *,
    input: bytes | str | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.PIPE,
    stderr: Stream = subprocess.PIPE,
    capture_output: bool = True,
    text: bool = False,
    encoding: str | None = None,
    errors: str | None = None,
    check: bool = False,
    timeout: float | None = None,
    **options: Unpack[Options],
) -> Result[Any]:
    """Run a command in a VM of its own, wait for its end, and return what came of it.

    Like `subprocess.run`, but what the command writes is captured unless said otherwise, and it has no input.

    :param command: the words; the first is a path in the guest.
    :param input: what it reads.
    :param capture_output: False leaves it our own standard output and error.
    :param check: raise `subprocess.CalledProcessError` unless it exits with 0.
    :param timeout: seconds until the VM is ended.
    :param options: see `Options`.
    :raise subprocess.TimeoutExpired: it was ended; what it wrote is in the exception.
    :raise PykrunError: there can be no such VM, or it failed.
    """
    chosen = Encoding.choose(text, encoding, errors)
    stdin, stdout, stderr = captured_streams(stdin, stdout, stderr, input, capture_output)
    data = b"" if input is None else chosen.encode(input)
    running = Running(command, (stdin, stdout, stderr), chosen, (None, None, None), options)
    taken = collect(running, data)
    session = running.session
    try:
        session.ended.exception(timeout)
    except FutureTimeout:
        session.kill()
        session.ended.exception()
        raise expired(running, taken, cast(float, timeout)) from None
    except BaseException:  # Ctrl-C
        session.kill()
        session.ended.exception()
        raise
    return finish(running, taken, check)


def captured_streams(
    stdin: Stream, stdout: Stream, stderr: Stream, input: bytes | str | None, capture: bool
) -> tuple[Stream, Stream, Stream]:
    """The streams that `run` means.

    :raise UsageError: there is an input, and another one.
    """
    if not capture:
        stdout, stderr = (None if stream == subprocess.PIPE else stream for stream in (stdout, stderr))
    if input is None:
        return stdin, stdout, stderr
    if stdin not in (subprocess.DEVNULL, subprocess.PIPE):
        raise UsageError("input and stdin cannot both be given")
    return subprocess.PIPE, stdout, stderr


def expired(running: Running, taken: dict[str, bytearray], timeout: float) -> subprocess.TimeoutExpired:
    """What `run` raises when the time is over, with what the command had written."""
    decode = running.encoding.decode
    out, err = (decode(bytes(taken[name]), cut=True) if name in taken else None for name in NAMES[1:])
    return subprocess.TimeoutExpired(list(running.args), timeout, out, err)


def collect(running: Running, data: bytes | memoryview) -> dict[str, bytearray]:
    """Have the session read what is piped, and feed the input."""
    taken: dict[str, bytearray] = {}
    for name, descriptor in running.ours.items():
        if name == "stdin":
            running.session.feed(descriptor, data)
        else:
            taken[name] = bytearray()
            running.session.read(descriptor, taken[name].extend)
    return taken


def finish(running: Running, taken: dict[str, bytearray], check: bool) -> Result[Any]:
    """Make the result; raise if it is to be checked."""
    result = running.result(*(bytes(taken[name]) if name in taken else None for name in NAMES[1:]))
    if check:
        result.check()
    return result
