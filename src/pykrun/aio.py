"""`pykrun` for asyncio: the same names, shaped after `asyncio.subprocess`.

::

    from pykrun import aio

    result = await aio.run(["/bin/uname", "-r"], root="/", read_only=True, text=True)

    async with aio.MicroVM(["/bin/cat"], root="/", read_only=True, stdin=aio.PIPE, stdout=aio.PIPE) as vm:
        vm.stdin.write(b"hello\\n")
        print(await vm.stdout.readline())
"""

from __future__ import annotations

import asyncio
import os
import signal
import warnings
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any, Self, Unpack

from pykrun.api import Options, Result, Root
from pykrun.api.further import LAST, Further
from pykrun.api.microvm import Command, Running, captured_streams, collect, expired, finish
from pykrun.api.options import Stream, has_image, words_of
from pykrun.api.session import Session
from pykrun.api.streams import NAMES, Encoding, OnLine
from pykrun.errors import UsageError


class MicroVM:
    """A command running in a VM of its own, as `asyncio.subprocess.Process` is one running here.

    The VM is started by `async with`, or by awaiting the object. At the end of the block it is asked to stop (TERM, a
    grace, KILL), or ended at once when the block raises or is cancelled. Streams carry bytes.

    :param command: the words; the first is a path in the guest.
    :param stdin: as in subprocess: None for this process' own, PIPE, DEVNULL, a descriptor or an open file; likewise
        `stdout` and `stderr`, which may be STDOUT too.
    :param on_stdout: called in the event loop with every line of standard output instead; likewise `on_stderr`.
    :param on_boot: called with every line of the guest kernel's console.
    :param text: the lines of these functions are text; `encoding` and `errors` say which, as in subprocess.
    :param options: see `Options`.
    :ivar stdin: an `asyncio.StreamWriter`, None where it is no pipe.
    :ivar stdout: an `asyncio.StreamReader`, None where it is no pipe; likewise `stderr`.
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
        self.args = words_of(command, optional=has_image(options))
        self._given = (command, (stdin, stdout, stderr), Encoding.choose(text, encoding, errors))
        self._lines = (on_stdout, on_stderr, on_boot)
        self._options = options
        self._running: Running | None = None
        self._asked = False
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._transports: list[asyncio.BaseTransport] = []

    def __await__(self) -> Generator[Any, None, Self]:
        return self._start().__await__()

    async def __aenter__(self) -> Self:
        return await self._start()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.kill()
        if self.stdin is not None:
            self.stdin.close()
        if kind is None and not self._session.ended.done():
            self.stop()
        try:
            await _settled(self._session.ended)
        finally:
            self.kill()
            for transport in self._transports:
                transport.close()
        if kind is None and not self._asked:
            self._started.result()  # that there was no VM should not go unheard

    def __del__(self) -> None:
        running = getattr(self, "_running", None)
        if running is not None and not running.session.ended.done():
            warnings.warn(f"VM {self.args!r} is still running: use `async with`, or wait()", ResourceWarning, 2, self)

    @property
    def pid(self) -> int:
        """The process of this host that supervises the VM."""
        return self._session.pid

    @property
    def name(self) -> str:
        """What `pykrun ps` and `pykrun exec` call it; empty where VMs cannot be listed."""
        return self._session.name

    @property
    def exit_code(self) -> int | None:
        """The command's, as a shell would see it; None while it runs.

        :raise EngineError: the VM failed.
        """
        return self._started.result().exit_code if self._session.ended.done() else None

    async def wait(self) -> int:
        """Wait for the end, and return the exit code.

        :raise EngineError: the VM failed.
        """
        return (await self.result()).exit_code

    async def result(self) -> Result[Any]:
        """Wait for the end, and return what came of it, without streams.

        :raise EngineError: the VM failed.
        """
        await _settled(self._session.ended)
        self._asked = True
        return self._started.result()

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Write `input` to the command, read all that it writes to pipes, and wait for its end.

        :raise EngineError: the VM failed.
        """
        if input and self.stdin is None:
            raise UsageError("input needs stdin=PIPE")
        out, err, _ = await asyncio.gather(_read(self.stdout), _read(self.stderr), _feed(self.stdin, input or b""))
        await self.result()
        return out, err

    async def exec(
        self,
        command: Command,
        *,
        input: bytes | str | None = None,
        stdin: Stream = DEVNULL,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
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
        """Run one more command in this VM and return what came of it; see `pykrun.MicroVM.exec`.

        When the task is cancelled, the command is killed first.

        :raise subprocess.TimeoutExpired: it was killed after `timeout` seconds.
        :raise EngineError: the VM has ended, or cannot run further commands.
        """
        chosen = Encoding.choose(text, encoding, errors)
        streams = captured_streams(stdin, stdout, stderr, input, capture_output)
        data = b"" if input is None else chosen.encode(input)
        further = Further(
            self._session, command, streams, chosen, data, env=env, workdir=workdir, user=user, rlimits=rlimits, tty=tty
        )
        try:
            async with asyncio.timeout(timeout):
                await _settled(further.ended)
        except BaseException as error:
            further.send_kill()
            try:
                async with asyncio.timeout(LAST):
                    await _settled(further.ended)
            except TimeoutError:
                pass
            if not isinstance(error, TimeoutError):
                raise
            assert timeout is not None
            raise further.expired(timeout) from None
        return further.finish(check)

    def send_signal(self, number: int) -> None:
        """Send the command a signal; one that comes before it runs waits for it.

        :raise UsageError: there is no such signal.
        """
        self._session.send_signal(number)

    def terminate(self) -> None:
        """Send it SIGTERM, which it may ignore; `stop` is the way to an orderly end."""
        self.send_signal(signal.SIGTERM)

    def stop(self, grace: float | None = None) -> None:
        """Ask for an orderly end, and return: TERM for the command, KILL after `grace` seconds, disks synced.

        :param grace: None is the VM's own (`Options`); the longest is a million seconds, which infinity stands for.
        :raise UsageError: it is negative, or no number.
        """
        self._session.stop(grace)

    def kill(self) -> None:
        """End the VM at once."""
        self._session.kill()

    @property
    def _started(self) -> Running:
        if self._running is None:
            raise UsageError("the VM was not started", "use `async with`, or await it")
        return self._running

    @property
    def _session(self) -> Session:
        return self._started.session

    async def _start(self) -> Self:
        if self._running is not None:
            raise UsageError("the VM was started already")
        loop = asyncio.get_running_loop()
        self._running = running = Running(*self._given, self._lines, self._options, _caller(loop))
        try:
            for name in NAMES:
                if (descriptor := running.ours.pop(name, None)) is not None:
                    await self._connect(name, descriptor)
            await _settled(running.session.launched)
            running.session.launched.result()
        except BaseException:
            self._asked = True
            self.kill()
            for descriptor in running.ours.values():
                os.close(descriptor)
            for transport in self._transports:
                transport.close()
            await asyncio.shield(_settled(running.session.ended))
            raise
        return self

    async def _connect(self, name: str, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        if name == "stdin":
            pipe = os.fdopen(descriptor, "wb", buffering=0)
            # The one protocol of asyncio with all that a StreamWriter asks for; its reader has nothing to do.
            transport, protocol = await loop.connect_write_pipe(
                lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), pipe
            )
            self.stdin = asyncio.StreamWriter(transport, protocol, None, loop)
            self._transports.append(transport)
            return
        reader = asyncio.StreamReader()
        source = os.fdopen(descriptor, "rb", buffering=0)
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
        self._transports.append(reading)
        setattr(self, name, reader)


async def run(
    command: Command,
    *,
    input: bytes | str | None = None,
    stdin: Stream = DEVNULL,
    stdout: Stream = PIPE,
    stderr: Stream = PIPE,
    capture_output: bool = True,
    text: bool = False,
    encoding: str | None = None,
    errors: str | None = None,
    check: bool = False,
    timeout: float | None = None,
    **options: Unpack[Options],
) -> Result[Any]:
    """Run a command in a VM of its own, wait for its end, and return what came of it; see `pykrun.run`.

    When the task is cancelled, the VM is ended first.

    :raise subprocess.TimeoutExpired: it was ended after `timeout` seconds.
    :raise PykrunError: there can be no such VM, or it failed.
    """
    chosen = Encoding.choose(text, encoding, errors)
    stdin, stdout, stderr = captured_streams(stdin, stdout, stderr, input, capture_output)
    data = b"" if input is None else chosen.encode(input)
    running = Running(command, (stdin, stdout, stderr), chosen, (None, None, None), options)
    taken = collect(running, data)
    session = running.session
    try:
        async with asyncio.timeout(timeout):
            await _settled(session.ended)
    except BaseException as error:
        session.kill()
        await asyncio.shield(_settled(session.ended))
        if not isinstance(error, TimeoutError):
            raise
        assert timeout is not None
        raise expired(running, taken, timeout) from None
    return finish(running, taken, check)


async def _settled(future: Future[Any]) -> None:
    """Wait until the future is done, whatever it has. Who is cancelled leaves nothing behind that would complain."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def tell(_: Future[Any]) -> None:
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:  # the loop has ended, and with it who waited
            pass

    future.add_done_callback(tell)
    await done.wait()


async def _read(stream: asyncio.StreamReader | None) -> bytes | None:
    return None if stream is None else await stream.read()


async def _feed(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    if stream is None:
        return
    try:
        stream.write(data)
        await stream.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass
    stream.close()


def _caller(loop: asyncio.AbstractEventLoop) -> Any:
    def call(function: OnLine, line: Any) -> None:
        try:
            loop.call_soon_threadsafe(function, line)
        except RuntimeError:  # the loop has ended, and with it whoever wanted to hear
            pass

    return call


__all__ = ["DEVNULL", "PIPE", "STDOUT", "MicroVM", "Options", "Result", "Root", "run"]
