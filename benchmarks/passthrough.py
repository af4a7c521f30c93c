"""A folder of the host: what a request costs the server, what an inode costs in memory, how many requests come.

No VM. The first table is CPU time of `Server.handle` on plain bytes, as in the benchmark `fuse`, with the system calls
that the request takes; beside some stand those system calls alone, made from Python, which no server in Python can
beat.

The second table is memory: what the server keeps for each inode that the guest knows, of 100,000.

The third counts requests over a mount of /dev/fuse for each cache policy.
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.harness import Benchmark, Limit, Measurement, Options, Series, Table, interleave
from pykrun.fs import InodeAllocator
from pykrun.fs.passthrough import CACHES, PassthroughFs
from pykrun.fs.passthrough import Options as Choices
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest, io_in, message
from tests.fuse.mounts import mounted

ROUNDS = 11
FILES = 1000
KNOWN = 100_000
MIB = 1 << 20
MEMORY_LIMIT = 1200.0
"""Bytes of the server's memory for each inode that the guest knows."""


class World:
    """A folder of a thousand small files and a large one, and a guest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "many").mkdir()
        for number in range(FILES):
            (folder / "many" / str(number)).write_bytes(b"hello")
        (folder / "large").write_bytes(bytes(2 * MIB))
        self.guest = Guest(PassthroughFs(str(folder), InodeAllocator()), max_inodes=1 << 20, max_handles=1 << 16)
        self.server = self.guest.server
        self.many = self.guest.walk(b"/many").nodeid
        self.large = self.guest.walk(b"/large").nodeid
        self.nodes = [self.guest.lookup(self.many, b"%d" % number).nodeid for number in range(FILES)]
        self.handle = self.guest.open(self.large, os.O_RDWR)
        self.descriptor = os.open(folder / "many", os.O_PATH)
        self.file = os.open(folder / "large", os.O_RDWR)

    def close(self) -> None:
        """Give everything back."""
        self.server.reset()
        self.guest.server.filesystem.close()
        os.close(self.descriptor)
        os.close(self.file)

    def requests(self, requests: Sequence[bytes], room: Sequence[int]) -> Measurement:
        """Microseconds of CPU a request."""
        views = [[memoryview(request)[:40], memoryview(request)[40:]] for request in requests]
        writable = [memoryview(bytearray(size)) for size in room]

        def measure() -> float:
            handle = self.server.handle
            before = time.process_time_ns()
            for readable in views:
                handle(readable, writable)
            return (time.process_time_ns() - before) / len(views) / 1e3

        return measure

    def made(self) -> float:
        """CREATE, RELEASE, UNLINK, FORGET of a file, in turn."""
        guest, body = self.guest, struct.pack("<IIII", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o100644, 0, 0)
        before = time.process_time_ns()
        for number in range(200):
            made = guest.good(fuse.CREATE, self.many, body + b"new%d\0" % number)
            node, handle = struct.unpack_from("<Q", made)[0], struct.unpack_from("<Q", made, 128)[0]
            guest.release(node, handle)
            guest.good(fuse.UNLINK, self.many, b"new%d\0" % number)
            guest.forget(node)
        return (time.process_time_ns() - before) / 200 / 1e3


def each(works: Sequence[Callable[[], object]]) -> Measurement:
    """Microseconds of CPU a piece of work."""

    def measure() -> float:
        before = time.process_time_ns()
        for work in works:
            work()
        return (time.process_time_ns() - before) / len(works) / 1e3

    return measure


def listing(world: World, opcode: int) -> Measurement:
    """Microseconds of CPU for each name of a listing."""
    request = [memoryview(message(opcode, world.many, io_in(0, 0, MIB)))]
    assert world.guest.opendir(world.many) == 0

    def measure() -> float:
        room = [memoryview(bytearray(MIB + 16))]
        before = time.process_time_ns()
        length = world.server.handle(request, room)
        spent = time.process_time_ns() - before
        assert length > FILES * 24
        return spent / (FILES + 2) / 1e3

    return measure


def stat_at(world: World, name: bytes) -> Callable[[], object]:
    """The least that a look-up takes."""
    return lambda: os.stat(name, dir_fd=world.descriptor, follow_symlinks=False)


def reopened(world: World) -> Callable[[], object]:
    """The least that opening takes: by way of a descriptor that opens nothing."""
    own = b"/proc/self/fd/%d" % world.descriptor

    def work() -> None:
        os.close(os.open(b"7", os.O_PATH | os.O_NOFOLLOW, dir_fd=world.descriptor))
        os.close(os.open(own, os.O_RDONLY))

    return work


def open_and_release(world: World) -> Measurement:
    """OPEN and RELEASE, in turn."""
    opening = [memoryview(message(fuse.OPEN, world.nodes[7], bytes(8)))]
    room = [memoryview(bytearray(64))]
    handle = world.server.handle

    def work() -> None:
        handle(opening, room)
        number = bytes(room[0][16:24])
        handle([memoryview(message(fuse.RELEASE, world.nodes[7], number + bytes(16)))], room)

    return each([work] * FILES)


def cpu(options: Options, world: World) -> Table:
    """Measure the CPU time of each kind of request."""
    names = [b"%d" % number for number in range(FILES)]
    block, room = bytearray(4096), memoryview(bytearray(4096))
    contestants: dict[str, Measurement] = {
        "LOOKUP": world.requests([message(fuse.LOOKUP, world.many, name + b"\0") for name in names], (16, 128)),
        "  stat alone": each([stat_at(world, name) for name in names]),
        "LOOKUP, missing name": world.requests([message(fuse.LOOKUP, world.many, b"missing\0")] * FILES, (16, 128)),
        "GETATTR": world.requests([message(fuse.GETATTR, node, bytes(16)) for node in world.nodes], (16, 104)),
        "OPEN and RELEASE": open_and_release(world),
        "  opening alone": each([reopened(world)] * FILES),
        "READ 4 KiB": world.requests(
            [message(fuse.READ, world.large, io_in(world.handle, 4096, 4096))] * FILES, (16, 4096)
        ),
        "  preadv alone": each([lambda: os.preadv(world.file, [room], 4096)] * FILES),
        "WRITE 4 KiB": world.requests(
            [message(fuse.WRITE, world.large, io_in(world.handle, 4096, 4096) + block)] * FILES, (16, 8)
        ),
        "READ 1 MiB": world.requests([message(fuse.READ, world.large, io_in(world.handle, 0, MIB))] * 40, (16, MIB)),
        "CREATE, RELEASE, UNLINK, FORGET": world.made,
        "READDIR, a name": listing(world, fuse.READDIR),
        "READDIRPLUS, a name": listing(world, fuse.READDIRPLUS),
    }
    series = interleave(options.rounds_or(ROUNDS), contestants)
    return Table(title="CPU of the server per request over a folder, on plain bytes", series=series, unit="us")


def memory(folder: Path) -> Table:
    """Measure what the server keeps for each known inode."""
    (folder / "hundred").mkdir()
    for number in range(KNOWN // 1000):
        (folder / "hundred" / str(number)).mkdir()
        for name in range(1000):
            os.symlink("x", folder / "hundred" / str(number) / f"a-name-of-{name}")
    guest = Guest(PassthroughFs(str(folder), InodeAllocator()), max_inodes=1 << 20)
    before, files_before = resident(), len(os.listdir("/proc/self/fd"))
    for number in range(KNOWN // 1000):
        node = guest.walk(b"/hundred/%d" % number).nodeid
        guest.listing(node, plus=True)
    spent, files = resident() - before, len(os.listdir("/proc/self/fd")) - files_before
    known = len(guest.server._session.inodes)
    guest.server.reset()
    guest.server.filesystem.close()
    series = [Series("bytes an inode", [spent / known]), Series("descriptors for all", [float(files)])]
    limits = [Limit("bytes an inode", spent / known, MEMORY_LIMIT)]
    return Table(title=f"memory of the server for {known:,} known inodes", series=series, unit="", limits=limits)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


WORKS: dict[str, Callable[[Path], object]] = {
    "stat a/b/file": lambda at: os.stat(at / "a/b/file"),
    "open, read, close": lambda at: (at / "a/b/file").read_bytes(),
    "a name that is missing": lambda at: os.path.exists(at / "a/missing"),
    "list a directory of 100": lambda at: os.listdir(at / "hundred"),
    "list it with stat": lambda at: [entry.stat() for entry in os.scandir(at / "hundred")],
    "make and remove a file": lambda at: _make(at / "new"),
}


def _make(path: Path) -> None:
    path.write_bytes(b"content")
    path.unlink()


def requests(source: Path, target: Path) -> Table:
    """Count the requests that each work takes the first time and at once again, by policy."""
    series = []
    for name, work in WORKS.items():
        for cache in CACHES:
            first, second = (_count(source, target, work, cache, times) for times in (1, 2))
            again = {operation: number - first.get(operation, 0) for operation, number in second.items()}
            told = " ".join(f"{operation} {number}" for operation, number in again.items() if number)
            series.append(Series(f"{name}, {cache}", [float(sum(first.values()))]))
            series.append(Series("again", [float(sum(again.values()))], told or "none", part=True))
    return Table(title="requests that Linux sends, over /dev/fuse", series=series, unit="requests")


def _count(source: Path, target: Path, work: Callable[[Path], object], cache: str, times: int) -> dict[str, int]:
    with mounted(PassthroughFs(str(source), InodeAllocator(), Choices(cache=cache)), target) as outcome:
        for _ in range(times):
            work(target)
    return {name: number for name, number in outcome.statistics.items() if "FORGET" not in name and name != "INIT"}


def run(options: Options) -> Iterator[Table]:
    """Measure all three."""
    with tempfile.TemporaryDirectory(prefix="pykrun-bench") as name:
        source, target = Path(name) / "source", Path(name) / "target"
        for folder in (source / "a/b", source / "hundred", target, Path(name) / "cpu", Path(name) / "memory"):
            folder.mkdir(parents=True)
        (source / "a/b/file").write_bytes(b"hello")
        for number in range(100):
            (source / "hundred" / str(number)).touch()
        time.sleep(0.1)  # what has just changed may not be kept
        world = World(Path(name) / "cpu")
        yield cpu(options, world)
        world.close()
        yield memory(Path(name) / "memory")
        if os.geteuid() == 0 and os.path.exists("/dev/fuse"):
            yield requests(source, target)


BENCHMARK = Benchmark("passthrough", "a folder of the host: server CPU and memory, and how many requests come", run)
