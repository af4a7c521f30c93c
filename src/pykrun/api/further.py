"""A further command in a VM that runs: what the blocking and asyncio's `exec` share."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import Any

from pykrun.api.options import Stream, check_environment, read_rlimits, words_of
from pykrun.api.result import Result
from pykrun.api.session import Session
from pykrun.api.streams import NAMES, Encoding, Streams
from pykrun.errors import EngineError, PykrunError
from pykrun.vms import Client, Message
from pykrun.vms.process import describe

SET_UP_FAILED = 125
LAST = 10.0
"""Seconds that a command has for its end after KILL; then nobody waits for it any more."""


class Further:
    """Starts a command at once.

    :param streams: input, output and errors, as in subprocess.
    :param data: what it reads, where input is a pipe.
    :ivar ended: done when it has ended and everything that it wrote to pipes was read.
    :raise UsageError: there can be no such command.
    :raise EngineError: the VM has ended.
    """

    def __init__(
        self,
        session: Session,
        command: Sequence[str | bytes | os.PathLike[str]],
        streams: tuple[Stream, Stream, Stream],
        encoding: Encoding,
        data: bytes | memoryview,
        *,
        env: Mapping[str, str] | None,
        workdir: str | None,
        user: int | tuple[int, int] | str | None,
        rlimits: Mapping[str, tuple[int, int]] | None,
        tty: bool,
    ) -> None:
        self.args = words_of(command)
        self.ended: Future[Message] = Future()
        self.ended.set_running_or_notify_cancel()
        self._encoding = encoding
        self._begun = time.monotonic()
        self._timing: dict[str, float] = {}
        self._answer: Message | None = None
        self._taken: dict[str, bytearray] = {}
        self._lock = session.lock
        process = describe(
            self.args,
            environment=check_environment(env or {}),
            workdir=workdir,
            user=(user, user) if isinstance(user, int) else user,
            rlimits=read_rlimits(rlimits or {}),
            terminal=tty,
        )
        with Streams(*streams) as made:
            given = made.numbers()
            if tty:
                given[2] = None
            self._client = client = Client(session.visit())
            descriptors = [number for number in given if number is not None]
            client.ask("exec", descriptors, process=process, streams=[number is not None for number in given])
            ours = {name: number for name in NAMES if (number := made.take(name)) is not None}
        self._open = sum(name != "stdin" for name in ours) + 1
        for name, descriptor in ours.items():
            if name == "stdin":
                session.feed(descriptor, data)
            else:
                self._taken[name] = bytearray()
                session.read(descriptor, partial(self._take, name))
        session.watch(client.fileno(), self._on_message)

    def kill(self) -> None:
        """End it now, and wait (bounded) until it has."""
        self.send_kill()
        try:
            self.ended.exception(LAST)
        except FutureTimeout:
            pass

    def send_kill(self) -> None:
        """End it now; a VM that does not answer is not waited for."""
        with self._lock:
            if not self.ended.done():
                self._client.ask("signal", number=int(signal.SIGKILL))

    def expired(self, timeout: float) -> subprocess.TimeoutExpired:
        """What `exec` raises when the time is over, with what the command had written."""
        out, err = self._captured(cut=True)
        return subprocess.TimeoutExpired(list(self.args), timeout, out, err)

    def finish(self, check: bool) -> Result[Any]:
        """Return what came of it, once `ended` is done; raise if it is to be checked.

        :raise PykrunError: the command could not be run in this VM.
        """
        answer = self.ended.result(0)
        code, reason = int(answer["code"]), str(answer["reason"])
        if code == SET_UP_FAILED and reason:
            raise EngineError(reason)
        out, err = self._captured()
        result: Result[Any] = Result(
            args=self.args,
            exit_code=code,
            signal=int(answer["signal"]),
            stdout=out,
            stderr=err,
            reason=reason,
            timing=self._timing,
        )
        if check:
            result.check()
        return result

    def _captured(self, *, cut: bool = False) -> tuple[Any, Any]:
        decode, taken = self._encoding.decode, self._taken
        out, err = (decode(bytes(taken[name]), cut=cut) if name in taken else None for name in NAMES[1:])
        return out, err

    # -- in the session's thread -------------------------------------------------------------------------------

    def _take(self, name: str, data: bytes) -> None:
        self._taken[name] += data
        if not data:
            self._close_one()

    def _on_message(self) -> bool:
        """Hear what the door says; whether there is more to come."""
        try:
            while (message := self._client.receive(0)) is not None:
                event = str(message.get("event"))
                self._timing[event] = time.monotonic() - self._begun
                if event == "ended":
                    return self._end(message)
                if event == "gone":
                    return self._end(EngineError("the VM is gone: its supervisor ended"))
        except PykrunError as error:
            return self._end(error)
        return True

    def _end(self, answer: Message | PykrunError) -> bool:
        with self._lock:
            self._client.close()
        if isinstance(answer, PykrunError):
            self.ended.set_exception(answer)
        else:
            self._answer = answer
            self._close_one()
        return False

    def _close_one(self) -> None:
        self._open -= 1
        if not self._open and self._answer is not None:
            self.ended.set_result(self._answer)
