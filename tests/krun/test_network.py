"""Network devices of the API: what they are plugged into, and their addresses."""

from __future__ import annotations

import logging
import socket
import struct
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from pykrun import krun
from pykrun.krun.context import find
from pykrun.krun.description import describe
from tests.boot.test_netdevs import Switch
from tests.krun.programs import Programs

PING = """
cat /sys/class/net/eth0/address
ip address add 10.9.0.2/24 dev eth0; ip link set eth0 up; ping -c 1 -w 20 10.9.0.1 > /dev/null && echo pinged
"""
ROOT = "good(krun_set_root(ctx, root))\n"


def shell(script: str) -> str:
    return f"{ROOT}good(krun_set_exec(ctx, '/bin/sh', ['-c', {script!r}], []))\n"


def test_gvproxys_socket(programs: Programs, tmp_path: Path) -> None:
    """By the old functions: vfkit's word comes first, and the address is the caller's."""
    switch = Switch(tmp_path / "vfkit")
    try:
        result = programs.run(
            shell(PING)
            + "good(krun_set_gvproxy_path(ctx, arguments[0]))\n"
            + "good(krun_set_net_mac(ctx, bytes.fromhex('5294ef000001')))",
            tmp_path / "vfkit",
        )
    finally:
        switch.close()
    assert (result.code, result.out) == (0, b"52:94:ef:00:00:01\npinged\n"), result
    assert switch.greeted


def test_a_connected_datagram_socket(programs_once: Programs) -> None:
    switch = Switch()
    assert switch.theirs is not None
    number = switch.theirs.fileno()
    try:
        result = programs_once.run(
            shell(PING) + f"good(krun_add_net_unixgram(ctx, None, {number}, bytes.fromhex('020000000002'), 0x4C83, 0))",
            pass_fds=(number,),
        )
    finally:
        switch.close()
    assert (result.code, result.out) == (0, b"02:00:00:00:00:02\npinged\n"), result
    assert not switch.greeted


def test_two_stream_sockets(programs_once: Programs, tmp_path: Path) -> None:
    """The first one is eth0. A frame comes behind its length."""
    sources: dict[str, bytes] = {}
    path = tmp_path / "stream"
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(60)
        ours.settimeout(60)

        def hear(name: str, connection: socket.socket) -> None:
            length = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))[0]
            sources[name] = connection.recv(length, socket.MSG_WAITALL)[6:12]
            while connection.recv(65536):
                pass

        def serve_path() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(60)
                hear("path", connection)

        threads = [threading.Thread(target=serve_path), threading.Thread(target=hear, args=("fd", ours))]
        for thread in threads:
            thread.start()
        script = """
        for n in 0 1; do cat /sys/class/net/eth$n/address; ip address add 10.$n.0.2/24 dev eth$n; ip link set eth$n up
        ping -c 1 -w 1 -W 1 10.$n.0.1 > /dev/null; done; true
        """
        result = programs_once.run(
            shell(script)
            + f"good(krun_add_net_unixstream(ctx, arguments[0], -1, bytes.fromhex('020000000001'), 0, 0))\n"
            f"good(krun_add_net_unixstream(ctx, None, {theirs.fileno()}, bytes.fromhex('020000000002'), 0, 0))",
            path,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        for thread in threads:
            thread.join()
    assert (result.code, result.out) == (0, b"02:00:00:00:00:01\n02:00:00:00:00:02\n"), result
    assert sources == {"path": b"\2\0\0\0\0\1", "fd": b"\2\0\0\0\0\2"}


@pytest.mark.parametrize("change", ["vsock", "explicit", "device", "none"])
def test_a_port_map_that_is_not_used_is_told(ctx: int, change: str, caplog: pytest.LogCaptureFixture) -> None:
    """What comes after it makes it so: a network device, or no vsock device in whose place the network is."""
    ours, theirs = socket.socketpair()
    with ours, theirs, ExitStack() as stack, caplog.at_level(logging.WARNING, logger="pykrun.krun"):
        assert krun.krun_set_root(ctx, "/") == krun.krun_set_port_map(ctx, ["8080:80"]) == 0
        if change == "device":
            assert krun.krun_add_net_unixstream(ctx, None, ours.fileno(), bytes(6), 0, 0) == 0
        elif change != "none":
            assert krun.krun_disable_implicit_vsock(ctx) == 0
            assert change == "vsock" or krun.krun_add_vsock(ctx, 0) == 0
        publish = describe(find(ctx), stack).publish
    assert publish == (("8080:80",) if change == "none" else ())
    assert [record.levelno for record in caplog.records] == ([] if change == "none" else [logging.WARNING])
    assert change == "none" or "the port map is not used: " in caplog.text


def test_what_cannot_be_plugged_in(programs_once: Programs, tmp_path: Path) -> None:
    """The start returns, and says what and why."""
    mac = "bytes.fromhex('020000000001')"
    lines = [
        f"good(krun_add_net_unixstream(ctx, {str(tmp_path / 'nobody')!r}, -1, {mac}, 0, 0))",
        f"good(krun_add_net_unixgram(ctx, None, 0, {mac}, 0, 0))",
        f"good(krun_add_net_tap(ctx, 'no-such-device-name', {mac}, 0, 0))",
        f"good(krun_add_net_unixgram(ctx, None, 98, {mac}, 0, 0))",
    ]
    start = "sys.exit(0 if krun_start_enter(ctx) == -errno.EINVAL else 1)"
    for line in lines:
        result = programs_once.run(ROOT + line, start=start)
        assert result.code == 0, (line, result)
        assert result.err.count(b"krun_start_enter: EINVAL: ") == 1
