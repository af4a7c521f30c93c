"""Consoles, named ports and serial lines of the API, in a guest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pykrun import krun
from pykrun.krun.context import find
from pykrun.krun.streams import connect
from pykrun.request import Descriptor
from tests.krun.programs import NO_NETWORK, Programs, finish

NO_CONSOLE = NO_NETWORK + "good(krun_disable_implicit_console(ctx))\n"


def runs(script: str) -> str:
    return f"good(krun_set_root(ctx, root)); good(krun_set_exec(ctx, '/bin/sh', ['-c', {script!r}], []))\n"


FIND = """
port() { for p in /sys/class/virtio-ports/*; do [ "$(cat $p/name)" = "$1" ] && echo /dev/${p##*/}; done; }
"""
"""A shell function: a named port's device."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass


def test_streams_and_a_named_port_of_one_console(programs: Programs, pipe: tuple[int, int], tmp_path: Path) -> None:
    """Ports with libkrun's names are the workload's streams, the others are ports."""
    (tmp_path / "in").write_text("for the port\n")
    script = FIND + 'cat; echo err >&2; read line < $(port data); echo "got $line" > $(port data)'
    with open(tmp_path / "in", "rb") as given:
        read, write = pipe
        result = programs.run(
            NO_CONSOLE
            + runs(script)
            + """
console = good(krun_add_virtio_console_multiport(ctx))
good(krun_add_console_port_inout(ctx, console, "krun-stdin", 0, -1))
good(krun_add_console_port_inout(ctx, console, "krun-stdout", -1, 1))
good(krun_add_console_port_inout(ctx, console, "krun-stderr", -1, 2))
good(krun_add_console_port_inout(ctx, console, "data", int(arguments[0]), int(arguments[1])))
""",
            given.fileno(),
            write,
            stdin=b"input",
            pass_fds=(given.fileno(), write),
        )
        os.close(write)
        assert (result.code, result.out, result.err) == (0, b"input", b"err\n")
        assert os.read(read, 100) == b"got for the port\n"


def test_a_terminal_of_a_multiport_console_is_the_workloads(programs_once: Programs) -> None:
    main, terminal = os.openpty()
    process = programs_once.start(
        NO_CONSOLE
        + runs("tty; read line; echo =$line=")
        + """
console = good(krun_add_virtio_console_multiport(ctx))
good(krun_add_console_port_tty(ctx, console, "tty", int(arguments[0])))
""",
        terminal,
        pass_fds=(terminal,),
    )
    os.close(terminal)
    seen = b""
    with open(main, "r+b", buffering=0) as end:
        while b"/dev/hvc0\r\n" not in seen:
            seen += end.read(1000)
        end.write(b"typed\n")
        while b"=typed=\r\n" not in seen:
            seen += end.read(1000)
        assert finish(process).code == 0


def test_the_first_console_stays_the_workloads(ctx: int) -> None:
    """Also if a later one has a terminal."""
    main, terminal = os.openpty()
    fds = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
    try:
        assert krun.krun_disable_implicit_console(ctx) == 0
        assert krun.krun_add_virtio_console_default(ctx, *fds) == 0
        assert krun.krun_add_virtio_console_multiport(ctx) == 1
        assert krun.krun_add_console_port_tty(ctx, 1, "tty", terminal) == 0
        with ExitStack() as stack:
            streams = connect(find(ctx), stack)
        assert [streams.stdin, streams.stdout, streams.stderr] == [Descriptor(fd) for fd in fds]
        assert [[port.input for port in console.ports] for console in streams.consoles] == [[Descriptor(terminal)]]
    finally:
        for fd in (main, terminal, *fds):
            os.close(fd)


def test_a_console_beside_the_implicit_one(programs_once: Programs, pipe: tuple[int, int]) -> None:
    """It is hvc1, whoever else there is."""
    read, write = pipe
    result = programs_once.run(
        NO_NETWORK
        + runs("echo second > /dev/hvc1; [ -c /dev/hvc0 ] && echo both")
        + "good(krun_add_virtio_console_default(ctx, -1, int(arguments[0]), -1))",
        write,
        pass_fds=(write,),
    )
    os.close(write)
    assert (result.code, result.out) == (0, b"both\n"), result
    assert os.read(read, 100) == b"second\r\n"


def test_a_serial_line(programs_once: Programs, pipe: tuple[int, int]) -> None:
    read, write = pipe
    result = programs_once.run(
        NO_NETWORK
        + runs("echo line > /dev/ttyS0")
        + "good(krun_add_serial_console_default(ctx, -1, int(arguments[0])))",
        write,
        pass_fds=(write,),
    )
    os.close(write)
    assert result.code == 0, result
    assert os.read(read, 100) == b"line\r\n"


def test_a_descriptor_that_is_not_open(programs_once: Programs) -> None:
    result = programs_once.run(
        NO_NETWORK + runs("true") + "good(krun_add_virtio_console_default(ctx, -1, 987, -1))",
        start="sys.exit(0 if krun_start_enter(ctx) == -errno.EINVAL else 1)",
    )
    assert result.code == 0
    assert b"987" in result.err
