"""How a running engine describes its end, and what it does with a QMP that nobody reads."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from pykrun.engine import Running
from pykrun.sandbox import Inmate, Jail, start
from tests.engine import guest
from tests.engine.guest import Watch
from tests.sandbox import prison


def running_as(inmate: Inmate) -> Running:
    """An engine without anything that leads into it."""
    return Running(
        engine="uml",
        accel="",
        console=-1,
        shares=(),
        console_device=None,
        ports={},
        terminal=None,
        control=None,
        inmate=inmate,
    )


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", "uml exited with 0"),
        ("exit 3", "uml exited with 3"),
        ("kill -ABRT $$", "uml was ended by SIGABRT"),
        ("kill -40 $$", "uml was ended by signal 40"),
        ("kill -KILL $$", "uml was killed"),
    ],
)
def test_describes_every_end(script: str, said: str) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    running = running_as(start(prison.jail(script, nothing)))
    try:
        prison.await_end(running.inmate)
        assert running.describe_end() == said
    finally:
        running.close()
        os.close(nothing)
    assert running.describe_end() == said


def test_describes_an_engine_that_is_ended_with_its_keeper() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    running = running_as(start(prison.jail("sleep 1000", nothing)))
    try:
        assert running.describe_end() == "uml is running"
        _ = running.isolation
        running.kill()
        prison.await_end(running.inmate)
        assert running.describe_end() == "uml was killed"
    finally:
        running.close()
        os.close(nothing)


def test_describes_an_engine_that_never_ran(tmp_path: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    jail = Jail(program=tmp_path / "gone", arguments=("gone",), libraries=(), descriptors=(nothing,) * 3)
    running = running_as(start(jail))
    try:
        prison.await_end(running.inmate)
        assert running.describe_end().startswith("uml did not start: ")
        assert "No such file" in running.describe_end()
    finally:
        running.close()
        os.close(nothing)


def everything(sock: socket.socket) -> list[dict[str, Any]]:
    """All that QMP said until QEMU ended."""
    sock.setblocking(True)
    sock.settimeout(30)
    said = b"".join(iter(lambda: sock.recv(65536), b""))
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.qemu
@pytest.mark.parametrize("negotiated", [False, True], ids=["unread", "negotiated"])
def test_qemu_only_greets_while_nobody_speaks_qmp(tmp_path: Path, negotiated: bool) -> None:
    """One greeting, whatever happens in the VM: what is not read cannot block it or grow. Negotiated, events come."""
    engine = guest.choose("qemu")
    running = engine.launch(guest.machine(engine, tmp_path, "true"))
    try:
        assert running.control is not None
        if negotiated:
            running.control.send(b'{"execute": "qmp_capabilities"}\n')
        Watch(running).ended()
        greeting, *more = everything(running.control)
    finally:
        running.close()
    assert set(greeting) == {"QMP"}
    assert ("SHUTDOWN" in [message.get("event") for message in more]) == negotiated
    assert negotiated or not more
