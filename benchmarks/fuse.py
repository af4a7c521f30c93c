"""FUSE requests: what one costs the server, and how many a kernel sends. No VM.

The first table is CPU time of `Server.handle` on plain bytes, laid out as Linux lays them out for virtio-fs: the header
and the arguments to read, a header and a body to write, 1 MiB reads both into one buffer and into 256 pages. The ring
that carries them is measured by the benchmark `virtqueue`. Beside it stand the same requests through the decoding that
all other operations share, which is why the hot ones have their own.

The second table counts requests over a mount of /dev/fuse, where the kernel is the real one.
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import Benchmark, Limit, Measurement, Options, Series, Table, interleave
from pykrun.fs import AugmentFs, FileSource, InodeAllocator, NullFs
from pykrun.fuse import Server, encode, wire
from pykrun.fuse.request import Request
from pykrun.fuse.session import Session
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest, io_in, message
from tests.fuse.mounts import mounted

ROUNDS = 15
MIB = 1 << 20
LIMITS = {"LOOKUP": 2.5, "GETATTR": 2.0, "READ 4 KiB": 2.7, "READ 1 MiB": 40.0}
"""us of CPU, on the 2-core machine that the project is measured on."""


class World:
    """A guest, and a file system of two hundred small files, a large one, and a large file of the host."""

    def __init__(self, folder: Path) -> None:
        (folder / "large").write_bytes(bytes(2 * MIB))
        filesystem = AugmentFs(NullFs(), InodeAllocator())
        filesystem.add_directory(b"/many")
        for number in range(200):
            filesystem.add_file(b"/many/%d" % number, b"hello")
        filesystem.add_file(b"/large", bytes(2 * MIB))
        filesystem.add_file(b"/host", FileSource.of_path(folder / "large"))
        self.guest = Guest(filesystem)
        self.server = self.guest.server
        self.many = self.guest.walk(b"/many").nodeid
        self.file = self.guest.walk(b"/many/7").nodeid
        self.large, self.host = self.guest.walk(b"/large").nodeid, self.guest.walk(b"/host").nodeid

    def measurement(self, request: bytes, room: Sequence[int], count: int = 3000) -> Measurement:
        """Microseconds of CPU a request."""
        readable = [memoryview(request)[:40], memoryview(request)[40:]]
        writable = [memoryview(bytearray(size)) for size in room]

        def measure() -> float:
            handle = self.server.handle
            before = time.process_time_ns()
            for _ in range(count):
                handle(readable, writable)
            return (time.process_time_ns() - before) / count / 1e3

        return measure

    def read(self, node: int, size: int, room: Sequence[int], count: int = 3000) -> Measurement:
        """Microseconds of CPU a read."""
        return self.measurement(message(fuse.READ, node, io_in(self.guest.open(node), 4096, size)), (16, *room), count)


def lookup(session: Session, request: Request, name: bytes) -> bytes:
    """LOOKUP as it would be among the other operations."""
    entry = session.filesystem.lookup(request.ino, name)
    if entry.ino:
        session.adopt(entry)
    return encode.entry_out(entry)


def getattr_(session: Session, request: Request, flags: int, number: int) -> bytes:
    """GETATTR as it would be among the other operations."""
    return encode.attr_out(session.filesystem.getattr(request.ino, None))


def generic(world: World) -> World:
    """Take the short cuts of two operations away."""
    server: Server = world.server
    for operation in wire.OPERATIONS:
        if operation.code in (fuse.LOOKUP, fuse.GETATTR):
            handler = lookup if operation.code == fuse.LOOKUP else getattr_
            server._serving[operation.code] = partial(server._serve, operation, handler)
    return world


def cpu(options: Options, folder: Path) -> Table:
    """Measure the CPU time of each kind of request."""
    hot, slow = World(folder), generic(World(folder))
    find = message(fuse.LOOKUP, hot.many, b"7\0")
    attributes = message(fuse.GETATTR, hot.file, bytes(16))
    contestants: dict[str, Measurement] = {
        "LOOKUP": hot.measurement(find, (16, 128)),
        "LOOKUP, missing name": hot.measurement(message(fuse.LOOKUP, hot.many, b"missing\0"), (16, 128)),
        "LOOKUP, shared decoding": slow.measurement(find, (16, 128)),
        "GETATTR": hot.measurement(attributes, (16, 104)),
        "GETATTR, shared decoding": slow.measurement(attributes, (16, 104)),
        "FORGET": hot.measurement(message(fuse.FORGET, hot.file, struct.pack("<Q", 0)), ()),
        "STATFS": hot.measurement(message(fuse.STATFS, 1), (16, 80)),
        "GETXATTR": hot.measurement(message(fuse.GETXATTR, hot.file, bytes(8) + b"security.capability\0"), (16, 8)),
        "READ 4 KiB": hot.read(hot.large, 4096, (4096,)),
        "READ 4 KiB, host file": hot.read(hot.host, 4096, (4096,)),
        "READ 1 MiB": hot.read(hot.large, MIB, (MIB,), 60),
        "READ 1 MiB, 256 pages": hot.read(hot.large, MIB, (4096,) * 256, 60),
        "READ 1 MiB, host file": hot.read(hot.host, MIB, (MIB,), 60),
        "copy 1 MiB": copy(60),
    }
    series = interleave(options.rounds_or(ROUNDS), contestants)
    medians = {one.name: one.median for one in series}
    limits = [Limit(f"{name}: us of CPU", medians[name], bound) for name, bound in LIMITS.items()]
    return Table(title="CPU of the server per request, on plain bytes", series=series, unit="us", limits=limits)


def copy(count: int) -> Measurement:
    """Microseconds of CPU to copy 1 MiB, which no read can beat."""
    source, target = memoryview(bytes(2 * MIB))[4096 : 4096 + MIB], memoryview(bytearray(MIB))

    def measure() -> float:
        before = time.process_time_ns()
        for _ in range(count):
            target[:] = source
        return (time.process_time_ns() - before) / count / 1e3

    return measure


WORKS: dict[str, Callable[[Path], object]] = {
    "stat a/b/file": lambda at: os.stat(at / "a/b/file"),
    "open, read, close": lambda at: _read(at / "a/b/file"),
    "a name that is missing": lambda at: os.path.exists(at / "a/missing"),
    "list a directory of 100": lambda at: os.listdir(at / "hundred"),
    "list it with stat": lambda at: [entry.stat() for entry in os.scandir(at / "hundred")],
    "open for writing, refused": lambda at: _refused(at / "a/b/file"),
    "read 8 MiB, O_DIRECT": lambda at: _direct(at / "big"),
}


def _read(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)  # without the ioctl that open() makes to know a terminal
    while os.read(descriptor, MIB):
        pass
    os.close(descriptor)


def _refused(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_WRONLY))
    except PermissionError:
        pass


def _direct(path: Path) -> None:
    import mmap

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, 8 * MIB) as room:
        os.readv(descriptor, [room])
    os.close(descriptor)


def requests(folder: Path) -> Table:
    """Count the requests that each work takes the first time and the second."""
    series = []
    for name, work in WORKS.items():
        first, second = (_count(folder, work, times) for times in (1, 2))
        told = " ".join(f"{operation} {number}" for operation, number in first.items())
        series.append(Series(name, [float(sum(first.values()))], told))
        again = {operation: number - first.get(operation, 0) for operation, number in second.items()}
        told = " ".join(f"{operation} {number}" for operation, number in again.items() if number)
        series.append(Series("again", [float(sum(again.values()))], told or "none", part=True))
    return Table(title="requests that Linux sends, over /dev/fuse", series=series, unit="requests")


def _count(folder: Path, work: Callable[[Path], object], times: int) -> dict[str, int]:
    filesystem = AugmentFs(NullFs(), InodeAllocator())
    filesystem.make_parents(b"/a/b/file")
    filesystem.add_file(b"/a/b/file", b"hello")
    filesystem.add_directory(b"/hundred")
    for number in range(100):
        filesystem.add_file(b"/hundred/%d" % number, b"")
    filesystem.add_file(b"/big", bytes(8 * MIB))
    with mounted(filesystem, folder) as outcome:
        for _ in range(times):
            work(folder)
    return {name: number for name, number in outcome.statistics.items() if name not in ("INIT", "FORGET")}


def run(options: Options) -> list[Table]:
    """Measure both."""
    with tempfile.TemporaryDirectory(prefix="pykrun-bench") as name:
        tables = [cpu(options, Path(name))]
        if os.geteuid() == 0 and os.path.exists("/dev/fuse"):
            mountpoint = Path(name) / "mount"
            mountpoint.mkdir()
            tables.append(requests(mountpoint))
    return tables


BENCHMARK = Benchmark("fuse", "FUSE requests: server CPU of each, and how many a kernel sends", run)
