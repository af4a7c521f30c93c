"""`pykrun fs` and `pykrun mount` as running programs: what they say, how they end, who belongs to them."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.command import Pykrun
from tests.support.processes import children

SECONDS = 30.0


class Running:
    """A started command. Use as a context: what still runs at its end gets SIGTERM, and must end."""

    def __init__(self, pykrun: Pykrun, arguments: Sequence[str], **options: Any) -> None:
        reading, writing = os.pipe()
        self.process = pykrun.start(arguments, stderr=writing, **options)
        os.close(writing)
        self._stderr = reading
        self.said = ""

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(SECONDS)
        finally:
            os.close(self._stderr)

    def wait_for(self, text: str, times: int = 1) -> str:
        """Read until it has said `text` that often; return everything so far."""
        self._read(lambda: self.said.count(text) >= times)
        assert self.said.count(text) >= times, f"{text!r} {times} times in: {self.said}"
        return self.said

    def end(self, number: int | None = None) -> int:
        """Wait for its end, after a signal; return its status. Everything that it said is in `said`."""
        if number is not None:
            self.process.send_signal(number)
        self._read(lambda: False)
        return self.process.wait(SECONDS)

    def family(self) -> set[int]:
        """Its process and all descendants."""
        found, new = set(), {self.process.pid}
        while new:
            found |= new
            new = {pid for parent in new for pid in _children_of(parent)} - found
        return found

    def server(self) -> int:
        """The process that serves."""
        return self._named("pykrun share")

    def guardian(self) -> int:
        """The process that unmounts at the end."""
        return self._named("pykrun guardian")

    def _named(self, name: str) -> int:
        """The one process of that name; it names itself a moment after its start."""
        end = time.monotonic() + SECONDS
        while len(found := [pid for pid in self.family() if _name(pid) == name]) != 1:
            assert time.monotonic() < end, f"{len(found)} processes are called {name}"
            time.sleep(0.01)
        return found[0]

    def _read(self, enough: Any) -> None:
        end = time.monotonic() + SECONDS
        while not enough():
            ready, _, _ = select.select([self._stderr], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self._stderr, 65536) if ready else b""
            if not chunk:
                return
            self.said += chunk.decode(errors="replace")


def _children_of(pid: int) -> set[int]:
    try:
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except FileNotFoundError:
        return set()


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def wait_until_gone(pids: set[int]) -> None:
    """Wait for the end of processes that may have become our children by their parent's end."""
    end = time.monotonic() + SECONDS
    while left := {pid for pid in pids if os.path.exists(f"/proc/{pid}")}:
        for pid in left & children():
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.01)
