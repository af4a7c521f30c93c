"""Machines that a shim runs: a shell, on each engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pykrun.request import Entry, Request, Tree
from pykrun.shim import Ended, Event, Failed, Reached, Shim
from pykrun.start_data import StartData

LIMIT = 60.0


@pytest.fixture(scope="session")
def busybox() -> Path:
    path = shutil.which("busybox")
    if path is None:
        pytest.skip("no busybox on PATH (apt-get install busybox-static)")
    return Path(path).resolve()


@pytest.fixture
def shell(engine: str, busybox: Path) -> Callable[..., Request]:
    """Makes a request for `sh -c SCRIPT`; further entries and whatever a request has."""

    def make(script: str, *entries: Entry, **more: object) -> Request:
        tools = tuple(
            Entry(path=b"/bin/" + name, source=str(busybox), mode=0o755)
            for name in (b"sh", b"cat", b"mount", b"sleep", b"ls")
        )
        given: dict[str, object] = {
            "root": Tree(entries=tools + entries),
            "start": StartData(program="/bin/sh", arguments=["-c", script]),
            "engine": engine,
            "accel": "tcg" if engine == "qemu" else "auto",
        }
        return Request(**(given | more))  # type: ignore[arg-type]

    return make


def until(shim: Shim, phase: str) -> None:
    """Wait until the run has reached that phase."""
    while True:
        event = shim.receive(LIMIT)
        assert event is not None, f"no {phase} in time"
        assert not isinstance(event, Ended | Failed), event
        if isinstance(event, Reached) and event.phase == phase:
            return


def last(shim: Shim) -> Event:
    """Wait for the last event."""
    while not isinstance(event := shim.receive(LIMIT), Ended | Failed):
        assert event is not None, "no end in time"
    return event
