"""The process that keeps the server, with servers that a guest has taken over."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from pykrun.fileserver import link as messages
from pykrun.fileserver.keeper import Keeper
from pykrun.fileserver.link import Link
from pykrun.fileserver.log import Log
from pykrun.root import Root
from pykrun.share import Share


class Kept(Keeper):
    """Keeps a server that does what a test says."""

    def __init__(self, serve: Callable[[Link], None], *, stats: bool = False) -> None:
        super().__init__(Share(root=Root(bare=True)), Log("info"), sandbox="none", stats=stats)
        self.work = serve
        self.heard: list[str] = []

    def start(self) -> None:
        self.serve(lambda share, link: self.work(link))

    def on_ready(self) -> None:
        self.heard.append("ready")

    def on_answered(self) -> None:
        self.heard.append("answered")

    def on_connection_ended(self, reason: str) -> None:
        self.heard.append(reason)


def test_garbage_is_no_word(capfd: pytest.CaptureFixture[str]) -> None:
    def garbage(link: Link) -> None:
        for text in ("", "3", "9x", "\u00b2x", "x", "3\x1b[2J\n\u202e", "3" + "y" * 50_000):
            link.send(messages.LOG, text, wait=True)
        for kind in (b"R", b"R", b"A", b"A", b"?", b"\0", b"C", b"Q"):
            link.send(kind, "text", wait=True)
        link.send(messages.ENDED, "\x07" * 3, wait=True)
        link.send(
            messages.COUNTS, "LOOKUP 5\nbad\nA B C\n\x1b[2J 7\nX " + "9" * 3000 + "\nGETATTR 6\n" + "z 1\n" * 3000
        )
        link.send(b"", wait=True)

    kept = Kept(garbage, stats=True)
    assert kept.run() == 0
    assert kept.heard == ["ready", "answered", "???"]
    said = capfd.readouterr().err
    assert "\x1b" not in said
    assert "pykrun: ?[2J??\n" in said
    assert len(max(said.splitlines(), key=len)) < 1100
    assert "\npykrun:   GETATTR                        6\npykrun:   LOOKUP                         5\n" in said
    assert said.count("pykrun:   z ") == 98


def test_a_server_that_never_stops_talking_fills_no_log(capfd: pytest.CaptureFixture[str]) -> None:
    """And signals are heard all the while."""

    def chatter(link: Link) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            link.send(messages.LOG, "3again")

    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM))
    kept = Kept(chatter)
    real = kept.on_stop
    kept.on_stop = lambda: (real(), kept.loop.call_later(0.2, kept.kill))[0]  # type: ignore[method-assign]  # sooner
    kept.start = lambda: (Kept.start(kept), timer.start())[0]  # type: ignore[method-assign]  # no threads before the fork
    began = time.monotonic()
    assert kept.run() == 1
    assert time.monotonic() - began < 30
    timer.join()
    said = capfd.readouterr().err
    assert said.count("again") == 199
    assert "says too much" in said


def test_a_server_that_fails_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(link: Link) -> None:
        raise ValueError("what\x1bever")

    assert Kept(fail).run() == 1
    assert "pykrun: ValueError: what?ever\n" in capfd.readouterr().err
