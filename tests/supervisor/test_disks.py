"""The servers of disks as their supervisor sees them: what they serve, and how it hears of their ends."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.disk import open_image
from pykrun.engine import Endpoint, Running
from pykrun.loop import Loop
from pykrun.sandbox.servant import Servant
from pykrun.supervisor.disks import DiskServers
from pykrun.vhost_user import messages as wire
from pykrun.virtio.block import F_RO
from tests.vhost_user.frontend import u64

PATIENCE = 20.0


class Engine:
    """Connects to the disks of a machine as User Mode Linux does."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.loop = Loop()
        self.ends: list[str] = []
        self.path = folder / "image"
        self.path.write_bytes(bytes(4096))
        disk = open_image(str(self.path), read_only=read_only)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "door"))
        listener.listen(1)
        running = Running(
            engine="uml",
            accel="",
            console=-1,
            shares=(),
            disks=(Endpoint(listener, connected=False),),
            console_device=None,
            ports={},
            terminal=None,
            control=None,
            inmate=None,  # type: ignore[arg-type]
        )
        self.servers = DiskServers(self.loop, self._ended)
        self.servers.start(running, (disk,), "auto")
        os.close(disk.descriptor)
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(PATIENCE)
        self.connection.connect(str(folder / "door"))

    def _ended(self, reason: str) -> None:
        self.ends.append(reason)
        self.loop.stop()

    def ask_features(self) -> int:
        self.connection.send(wire.HEADER.pack(wire.GET_FEATURES, 1, 0))
        answer = self.connection.recv(100)
        value: int = wire.U64.unpack(answer[wire.HEADER.size :])[0]
        return value

    def run(self, seconds: float = PATIENCE) -> None:
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run()

    def close(self) -> None:
        self.servers.close()
        self.connection.close()
        self.loop.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path)
    yield engine
    engine.close()


def test_serves_and_says_how_isolated_it_is(engine: Engine) -> None:
    assert not engine.ask_features() & F_RO
    assert "system-call filter" in engine.servers.isolation
    engine.connection.close()
    engine.run(0.3)
    assert engine.ends == [], "an engine that goes is no failure"


def test_read_only(tmp_path: Path) -> None:
    engine = Engine(tmp_path, read_only=True)
    assert engine.ask_features() & F_RO
    engine.close()


def test_a_broken_protocol_is_told(engine: Engine) -> None:
    engine.connection.send(wire.HEADER.pack(wire.SET_FEATURES, 1, 8) + u64(2**64 - 1))
    engine.run()
    (reason,) = engine.ends
    assert reason.startswith(f"disk vda, '{engine.path}': the guest broke a protocol: features 0xff")


def test_a_server_that_was_killed_is_told(engine: Engine) -> None:
    (server,) = engine.servers._servers
    assert isinstance(server, Servant)
    os.kill(server.pid, signal.SIGKILL)
    engine.run()
    assert engine.ends == [f"disk vda, '{engine.path}': its server was ended by SIGKILL"]
