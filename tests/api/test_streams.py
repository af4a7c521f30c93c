"""Bytes through a VM: much of it, in memory that does not grow; readers that stop."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from pykrun import PIPE, STDOUT, MicroVM, Root
from tests.api.conftest import LIMIT

Box = Callable[[], Root]
pytestmark = pytest.mark.uml
BLOCK = bytes(range(256)) * 256
"""64 KiB."""


def highest_memory(pid: int) -> int:
    """KiB that the process itself had at most; mappings it shares, as the guest's memory, do not count."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def feed(stream: IO[bytes], blocks: int) -> None:
    for number in range(blocks):
        stream.write(number.to_bytes(8) + BLOCK[8:])
    stream.close()


def expected(blocks: int) -> str:
    digest = hashlib.sha256()
    for number in range(blocks):
        digest.update(number.to_bytes(8) + BLOCK[8:])
    return digest.hexdigest()


@pytest.mark.parametrize("mib", [100, pytest.param(1024, marks=pytest.mark.full)])
def test_much_goes_through_in_constant_memory(box: Box, mib: int) -> None:
    blocks = mib * 16
    digest = hashlib.sha256()
    memory: list[int] = []
    with MicroVM(["/bin/cat"], root=box(), engine="uml", stdin=PIPE, stdout=PIPE) as vm:
        assert vm.stdin is not None
        assert vm.stdout is not None
        writer = threading.Thread(target=feed, args=(vm.stdin, blocks))
        writer.start()
        total = 0
        while data := vm.stdout.read(1 << 20):
            digest.update(data)
            total += len(data)
            if total >> 20 in (mib // 10, mib - 2):
                memory.append(highest_memory(vm.pid))
        writer.join(LIMIT)
        assert vm.wait(LIMIT) == 0
    assert total == blocks * len(BLOCK)
    assert digest.hexdigest() == expected(blocks)
    assert memory[-1] - memory[0] < 4096, memory


def test_stderr_between_keeps_its_place_in_one_pipe(box: Box) -> None:
    """Both ends of the guest's two pipes are read in turns: each stream keeps its own order, and nothing is lost."""
    script = "i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    with MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdout=PIPE, stderr=STDOUT, text=True) as vm:
        out, _ = vm.communicate(timeout=LIMIT)
    for kind in ("out", "err"):
        numbers = [line.split()[1] for line in out.splitlines() if line.startswith(kind)]
        assert numbers == [str(number) for number in range(500)]


def test_a_reader_that_stops_for_a_while_stops_the_command(box: Box) -> None:
    script = "head -c 20000000 /dev/zero; echo done >&2"
    with MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdout=PIPE, stderr=PIPE) as vm:
        assert vm.stdout is not None
        assert vm.stderr is not None
        assert len(vm.stdout.read(1000)) == 1000
        with pytest.raises(Exception, match="timed out"):
            vm.wait(2)
        assert highest_memory(vm.pid) < 64 << 10  # what nobody reads is not kept anywhere
        assert len(vm.stdout.read()) == 20_000_000 - 1000
        assert vm.stderr.read() == b"done\n"
        assert vm.wait(LIMIT) == 0


def test_a_reader_that_goes_away_is_a_broken_pipe(box: Box) -> None:
    with MicroVM(["/bin/yes"], root=box(), engine="uml", stdout=PIPE) as vm:
        assert vm.stdout is not None
        vm.stdout.read(10)
        vm.stdout.close()
        assert vm.wait(LIMIT) == 141
        assert vm.result().signal == 13


def test_a_command_that_does_not_read(box: Box) -> None:
    with MicroVM(["/bin/head", "-c", "3"], root=box(), engine="uml", stdin=PIPE, stdout=PIPE) as vm:
        assert vm.communicate(b"abc" + bytes(10_000_000), timeout=LIMIT) == (b"abc", None)


def test_the_writer_that_is_left_has_a_broken_pipe(box: Box) -> None:
    script = "exec <&-; echo closed; sleep 1000"
    with MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdin=PIPE, stdout=PIPE) as vm:
        assert vm.stdin is not None
        assert vm.stdout is not None
        assert vm.stdout.readline() == b"closed\n"
        bound = threading.Timer(LIMIT, vm.kill)
        bound.start()
        written = 0
        try:
            while True:
                written += os.write(vm.stdin.fileno(), BLOCK)
        except BrokenPipeError:
            bound.cancel()
        assert vm.poll() is None
        assert written < 100 << 20
        vm.kill()
