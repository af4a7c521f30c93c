"""Standard input, output and error: every byte, in order, apart, and their ends in both directions."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import threading
import time
from array import array
from pathlib import Path

import pytest

from tests.boot.vm import LIMIT, Vm, finish

MIB = 1 << 20


def counters(size: int) -> bytes:
    """What `/tool gen` writes."""
    return array("Q", range((size + 7) // 8)).tobytes()[:size]


def test_all_bytes_both_ways(vm: Vm) -> None:
    data = bytes(range(256)) * 33 + os.urandom(3 * MIB) + b"no line end"
    result = vm.tool_run("cat", stdin=data)
    assert (result.code, result.err) == (0, b"")
    assert hashlib.sha256(result.out).digest() == hashlib.sha256(data).digest()


def test_output_and_error_are_apart(vm: Vm) -> None:
    result = vm.tool_run("interleave", "4000")
    assert result.code == 0
    assert result.out == b"".join(b"%d\n" % number for number in range(0, 4000, 2))
    assert result.err == b"".join(b"%d\n" % number for number in range(1, 4000, 2))


@pytest.mark.parametrize("stream", [1, 2])
def test_last_megabyte_arrives_at_a_slow_reader(vm: Vm, stream: int) -> None:
    """The workload is long gone while its last bytes still wait in the host's pipe."""
    size = 3 * MIB + 12345
    process = vm.start("--", "/tool", "gen", str(size), str(stream))
    source = process.stdout if stream == 1 else process.stderr
    assert source is not None
    received = bytearray()
    end = time.monotonic() + LIMIT
    while chunk := os.read(source.fileno(), 32768):
        received += chunk
        if len(received) % (256 << 10) < len(chunk):
            time.sleep(0.15)
        assert time.monotonic() < end
    result = finish(process)
    assert result.code == 0
    assert bytes(received) == counters(size)


@pytest.mark.parametrize("size", [1, 4096, MIB])
def test_last_bytes_before_the_exit(vm_once: Vm, size: int) -> None:
    result = vm_once.tool_run("gen", str(size))
    assert (result.code, result.out, result.err) == (0, counters(size), b"")


def test_a_reader_that_sleeps_longer_than_any_patience(vm_once: Vm) -> None:
    """Init gives up after five seconds of silence; the host must not be silent while its reader sleeps."""
    size = MIB
    process = vm_once.start("--", "/tool", "gen", str(size))
    assert process.stdout is not None
    time.sleep(12)
    assert process.poll() is None
    result = finish(process)
    assert (result.code, result.out) == (0, counters(size))


def test_hundred_megabytes_through_both_pipes(vm: Vm) -> None:
    size = 100 * MIB
    data = counters(size)
    process = vm.start("--", "/tool", "cat", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None

    def feed(stream: int) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(stream, view) :]
        except BrokenPipeError:
            pass
        finally:
            assert process.stdin is not None
            process.stdin.close()

    feeder = threading.Thread(target=feed, args=(process.stdin.fileno(),))
    watchdog = threading.Timer(240, process.kill)
    watchdog.start()
    feeder.start()
    position, wrong = 0, False
    while chunk := os.read(process.stdout.fileno(), MIB):
        wrong |= chunk != data[position : position + len(chunk)]
        position += len(chunk)
    watchdog.cancel()
    feeder.join(20)
    process.stdin = None
    result = finish(process)
    assert (result.code, result.err, position, wrong) == (0, b"", size, False)


def test_input_ends(vm: Vm, tmp_path: Path) -> None:
    """/dev/null, a file from where it stands, and an empty pipe."""
    path = tmp_path / "input"
    path.write_bytes(counters(300_000))
    with path.open("rb", buffering=0) as stream:
        stream.seek(1000)
        result = vm.tool_run("cat", stdin=stream.fileno())
        assert (result.code, result.out) == (0, counters(300_000)[1000:])
    assert vm.tool_run("count").out == b"0 0\n"
    assert vm.tool_run("count", stdin=b"").out == b"0 0\n"


def close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def test_closed_input(vm_once: Vm) -> None:
    result = vm_once.run("--", "/tool", "count", prepare=lambda: close(0))
    assert (result.code, result.out, result.err) == (0, b"0 0\n", b"")


def test_closed_output(vm: Vm) -> None:
    """Writing fails in the guest; the error stream and the exit code still work."""
    result = vm.run("--", "/tool", "epipe", prepare=lambda: close(1), limit=60)
    assert (result.code, result.out, result.err) == (42, b"", b"write: 32\n")


def test_everything_closed(vm_once: Vm) -> None:
    result = vm_once.run("--", "/tool", "exit", "7", prepare=lambda: close(0, 1, 2), limit=60)
    assert (result.code, result.out, result.err) == (7, b"", b"")


def test_workload_that_reads_no_input(vm: Vm) -> None:
    """A producer larger than every buffer on the way does not hold the end."""
    process = vm.start("--", "/tool", "exit", "5", stdin=subprocess.PIPE)
    result = finish(process, counters(8 * MIB), limit=60)
    assert (result.code, result.out) == (5, b"")


def test_input_that_stays_open(vm_once: Vm) -> None:
    process = vm_once.start("--", "/tool", "exit", "6", stdin=subprocess.PIPE)
    assert process.wait(60) == 6


@pytest.mark.parametrize(("program", "code"), [("yes", 128 + signal.SIGPIPE), ("epipe", 42)])
def test_reader_goes_away(vm: Vm, program: str, code: int) -> None:
    """`yes | head`: the guest's program gets SIGPIPE, or EPIPE when it ignores that, and the run ends."""
    process = vm.start("--", "/tool", program)
    assert process.stdout is not None
    assert len(os.read(process.stdout.fileno(), 100)) == 100
    process.stdout.close()
    process.stdout = None
    result = finish(process, limit=60)
    assert result.code == code
    assert result.err == (b"write: 32\n" if program == "epipe" else b"")


def test_full_disk_is_an_error_for_the_workload(vm_once: Vm) -> None:
    with open("/dev/full", "wb") as full:
        result = vm_once.run("--", "/tool", "epipe", stdout=full, limit=60)
    assert (result.code, result.err) == (42, b"write: 32\npykrun: standard output: No space left on device\n")


def test_output_that_is_lost_is_an_error_even_if_the_workload_does_not_notice(vm_once: Vm) -> None:
    with open("/dev/full", "wb") as full:
        result = vm_once.run("--", "/tool", "argv", "word", stdout=full, limit=60)
    assert (result.code, result.err) == (125, b"pykrun: standard output: No space left on device\n")


def test_output_into_files(vm_once: Vm, tmp_path: Path) -> None:
    """Regular files are written where they stand, neither truncated nor from the start."""
    out, err = tmp_path / "out", tmp_path / "err"
    out.write_bytes(b"before\n")
    with out.open("ab") as stdout, err.open("wb") as stderr:
        process = vm_once.start("--", "/tool", "interleave", "100", stdout=stdout, stderr=stderr)
        assert process.wait(LIMIT) == 0
    assert out.read_bytes() == b"before\n" + b"".join(b"%d\n" % number for number in range(0, 100, 2))
    assert err.read_bytes() == b"".join(b"%d\n" % number for number in range(1, 100, 2))


def test_output_and_error_in_one_pipe(vm_once: Vm) -> None:
    result = vm_once.run("--", "/tool", "interleave", "1000", stderr=subprocess.STDOUT)
    lines = list(map(int, result.out.split()))
    assert result.code == 0
    assert sorted(lines) == list(range(1000))
    assert [line for line in lines if line % 2] == list(range(1, 1000, 2))


def test_streams_have_names_for_every_user(vm: Vm) -> None:
    """`echo x >/dev/stderr` as somebody who is not root: the pipes belong to the workload's user."""
    result = vm.tool_run("reopen", "text", options=["--user", "1000:1000"], stdin=b"input\n")
    assert (result.code, result.out, result.err) == (0, b"text\ninput\n", b"text\n")


def test_output_arrives_at_once(vm: Vm) -> None:
    """Nothing is held back until the end: an answer comes while the program waits for more."""
    process = vm.start("--", "/tool", "cat", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    waits = []
    for number in range(20):
        word = b"line %d\n" % number
        start = time.monotonic()
        os.write(process.stdin.fileno(), word)
        assert os.read(process.stdout.fileno(), 100) == word
        waits.append(time.monotonic() - start)
    result = finish(process, b"")
    assert result.code == 0
    assert sorted(waits)[10] < 1.0


def test_sockets_as_streams(vm_once: Vm) -> None:
    """A socket cannot be opened anew through /proc, as a pipe can."""
    data = os.urandom(MIB)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = vm_once.start("--", "/tool", "cat", stdin=theirs, stdout=theirs)
        ours.settimeout(LIMIT)

        def feed() -> None:
            ours.sendall(data)
            ours.shutdown(socket.SHUT_WR)

        feeder = threading.Thread(target=feed)
        feeder.start()
        received = b""
        while chunk := ours.recv(MIB):
            received += chunk
        feeder.join(LIMIT)
    assert finish(process).code == 0
    assert received == data


@pytest.mark.parametrize("blocking", [True, False])
def test_streams_keep_their_flags(vm_once: Vm, blocking: bool) -> None:
    """O_NONBLOCK belongs to everybody who shares the pipe: it is neither set nor removed, and works both ways."""
    size = MIB
    reader, writer = os.pipe()
    with open(reader, "rb") as stream:
        os.set_blocking(writer, blocking)
        process = vm_once.start("--", "/tool", "gen", str(size), stdout=writer)
        received = stream.read(10)
        assert os.get_blocking(writer) is blocking
        os.close(writer)
        received += stream.read()
    assert finish(process).code == 0
    assert received == counters(size)
