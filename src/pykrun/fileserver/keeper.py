"""The process that the user started: it keeps the one that serves, hears signals, and writes what is to be read."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal

from pykrun.fileserver import link as messages
from pykrun.fileserver.link import Link, clean
from pykrun.fileserver.log import DEBUG, ERROR, WARN, Log, tell_manager, write
from pykrun.fileserver.worker import NAME, Worker
from pykrun.loop import IN, Loop
from pykrun.sandbox.servant import Servant, Service
from pykrun.sandbox.servant import serve as start_servant
from pykrun.share import Share
from pykrun.signals import Signals

Sandbox = Literal["auto", "require", "none"]

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LEVELS = tuple("12345")
_LINES_A_MINUTE = 200
_MOST_COUNTS = 100
_PATIENCE = 5.0
"""Seconds that an orderly end may take."""


class Keeper:
    """One server from its start to its end; `run` returns the exit status.

    :param sandbox: how the process that serves is isolated: "auto", "require" or "none".
    :param stats: say at the end how often each operation came.
    """

    def __init__(self, share: Share, log: Log, *, sandbox: Sandbox = "auto", stats: bool = False) -> None:
        self.share = share
        self.log = log
        self.loop = Loop()
        self.failed = False
        self.isolation = "none"
        """The level that the process that serves reached."""
        self.stack = ExitStack()
        self._sandbox = sandbox
        self._stats = stats
        self._asked = False
        self._counts = ""
        self._ending = False
        self._worker: Servant | Worker | None = None
        self._heard: set[bytes] = set()
        self._lines = 0
        self._minute_ends = 0.0
        self.link, self._far_end = messages.pair()

    # For those who know the transport

    def start(self) -> None:
        """Make what must be there before anything is served, and call `serve`. What is to be given back goes on the
        stack.

        :raise PykrunError: it cannot be.
        """
        raise NotImplementedError

    def serve(self, serve: Callable[[Share, Link], None]) -> None:
        """Start the process that serves."""
        share, far_end = self.share, self._far_end
        share.prepare()
        kept = (far_end.fileno(), *share.descriptors())
        self._worker = self._fork(lambda: serve(share, far_end), kept)
        self.stack.callback(self._worker.close)
        far_end.close()
        share.root.close()
        self.loop.add(self.link.fileno(), IN, self._readable)
        self.loop.add(self._worker.pidfd, IN, self._ended)

    def _fork(self, serve: Callable[[], None], descriptors: tuple[int, ...]) -> Servant | Worker:
        if self._sandbox == "none":
            return Worker(serve, descriptors)
        service = Service(name=NAME, serve=serve, descriptors=descriptors, folder=self.share.folder, session=False)
        servant = start_servant(service, self._sandbox)
        self.stack.callback(servant.close)
        self.isolation = servant.isolation.level
        self.log(DEBUG, f"isolation: {servant.isolation.description}")
        return servant

    def on_ready(self) -> None:
        """What is sent down the link is served now.

        :raise PykrunError: there is nothing to send.
        """
        raise NotImplementedError

    def on_answered(self) -> None:
        """The kernel's first request was answered."""

    def on_connection_ended(self, reason: str) -> None:
        """A front end is gone; the reason is empty when nothing was wrong."""

    def on_stop(self) -> None:
        """The user wants an end; the default is to tell the server."""
        self.quit()

    # For the command

    def run(self) -> int:
        """Serve until the end; return the exit status.

        :raise PykrunError: it did not come to that.
        """
        with self.stack:
            self.stack.callback(self.loop.close)
            self.stack.callback(self.link.close)
            signals = Signals(self.loop, (*_STOPS, signal.SIGUSR1), self._signalled)
            self.stack.callback(signals.close)
            self.start()
            self.loop.run()
            tell_manager("STOPPING=1")
            if self._stats:
                self._show_counts()
        return int(self.failed)

    def quit(self) -> None:
        """Have the server end; by force after a while."""
        self.link.send(messages.QUIT, wait=True)
        self.loop.call_later(_PATIENCE, self.kill)

    def kill(self) -> None:
        """End the server by force."""
        if self._worker is not None:
            self.failed = True
            self.log(WARN, "what serves does not end; it was killed")
            self._worker.close()
            self.loop.stop()

    # Events

    def _signalled(self, number: int) -> None:
        if number == signal.SIGUSR1:
            self._asked = True
            self.link.send(messages.COUNTS)
        elif self._ending:  # not orderly enough, or too slow
            self.kill()
        else:
            self._ending = True
            self.log(DEBUG, f"ending: {signal.Signals(number).name}")
            self.on_stop()

    def _readable(self, _events: int) -> None:
        if not self.link.receive(self._message):
            self.loop.remove(self.link.fileno())

    def _message(self, kind: bytes, text: str, _descriptor: int) -> None:
        """Hear the process that serves, which a guest may have taken over: each word once, and lines in moderation."""
        if kind == messages.LOG and text[:1] in _LEVELS and self._may_write():
            self.log(int(text[0]), clean(text[1:]))
        elif kind in (messages.READY, messages.ANSWERED):
            if kind not in self._heard:
                self._heard.add(kind)
                (self.on_ready if kind == messages.READY else self.on_answered)()
        elif kind == messages.ENDED:
            self.on_connection_ended(clean(text))
        elif kind == messages.COUNTS:
            self._counts = text
            if self._asked:
                self._asked = False
                self._show_counts()

    def _may_write(self) -> bool:
        """Whether the log has room for one more line of the server's in this minute."""
        now = time.monotonic()
        if now > self._minute_ends:
            self._minute_ends, self._lines = now + 60, 0
        self._lines += 1
        if self._lines == _LINES_A_MINUTE:
            self.log(WARN, "the server says too much; for the rest of this minute it is not shown")
        return self._lines < _LINES_A_MINUTE

    def _show_counts(self) -> None:
        found = re.findall(r"^(\w{1,20}) (\d{1,20})$", self._counts, re.ASCII | re.MULTILINE)
        counts = sorted(((int(number), name) for name, number in found[:_MOST_COUNTS]), reverse=True)
        write(f"requests: {sum(number for number, _ in counts)}")
        for number, name in counts:
            write(f"  {name:<20}{number:>12}")

    def _ended(self, _events: int) -> None:
        worker = self._worker
        reason = "" if worker is None else worker.reap()
        if worker is None or reason is None:
            return
        self.link.receive(self._message, most=1000)  # its last words
        self.loop.remove(worker.pidfd)
        if reason:
            self.failed = True
            self.log(ERROR, clean(reason))
        self.loop.stop()
