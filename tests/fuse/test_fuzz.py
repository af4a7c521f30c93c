"""Random guests: whatever they send, the server answers within the room, and never raises, grows or answers FORGET.

The short version runs always; a million inputs with ./test --full. A failure names its seed: `run_seed` repeats it.
"""

from __future__ import annotations

import resource
import struct

import pytest

from pykrun.fs import AugmentFs, InodeAllocator, MemorySource, NullFs
from pykrun.fuse import Server
from tests.fs.memory import MemoryFs
from tests.fuse import guest as fuse
from tests.fuse.fuzzer import Fuzzer

SEED = 20261123
MAX_INODES, MAX_HANDLES = 64, 32


def broken() -> bytes:
    raise ValueError("no content")


def world(seed: int) -> tuple[Server, MemoryFs | None]:
    allocator = InodeAllocator()
    inner = MemoryFs(allocator) if seed % 3 else None
    if inner is not None:
        inner.plant(b"/etc/real", b"r")
        inner.plant(b"/real", bytes(5000))
    fs = AugmentFs(inner or NullFs(), allocator)
    fs.add_directory(b"/etc")
    fs.make_parents(b"/dir/leaf")
    fs.add_file(b"/dir/leaf", b"leaf")
    fs.add_file(b"/etc/text", b"t")
    fs.add_file(b"/text", bytes(10000))
    fs.add_file(b"/lazy", lambda: b"late")
    fs.add_file(b"/bad", broken)
    fs.add_file(b"/once", MemorySource(bytearray(b"secret"), wipe=True), one_shot=True)
    return Server(fs, max_inodes=MAX_INODES, max_handles=MAX_HANDLES), inner


def run_seed(seed: int, count: int) -> None:
    """Send `count` messages of one seed to a fresh server, and check all that must hold whatever they are."""
    server, inner = world(seed)
    fuzzer = Fuzzer(seed)
    initialize(server)
    for number in range(count):
        request = fuzzer.request()
        space = bytearray(fuzzer.room())
        length = server.handle(fuzzer.divide(request), fuzzer.divide(space))
        assert 0 <= length <= len(space), (seed, number)
        assert not length or struct.unpack_from("<I", space)[0] == length, (seed, number)
        if len(request) >= 8 and struct.unpack_from("<I", request, 4)[0] in (2, 41, 42):
            assert length == 0, (seed, number)
        fuzzer.learn(space[:length])
        if not server.initialized:
            initialize(server)
    check_end(server, inner, seed)


def initialize(server: Server) -> None:
    body = struct.pack("<IIIII44x", 7, 38, 131072, fuse.EVERYTHING & 0xFFFFFFFF, 0)
    header = struct.pack("<IIQQIIIHH", 40 + len(body), fuse.INIT, 1, 0, 0, 0, 0, 0, 0)
    assert server.handle([memoryview(header + body)], [memoryview(bytearray(100))]) == 80


def check_end(server: Server, inner: MemoryFs | None, seed: int) -> None:
    assert server.faults == 0, seed
    session = server._session
    assert len(session.inodes) <= MAX_INODES + 1, seed
    assert max(len(session.files), len(session.directories)) <= MAX_HANDLES, seed
    server.reset()
    if inner is not None:
        assert (inner.lookups, inner.handles) == ({}, set()), seed


def memory() -> int:
    """Resident bytes of this process."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("seed", range(SEED, SEED + 12))
def test_random_guests(seed: int) -> None:
    run_seed(seed, 3000)


def test_the_fuzzer_gets_somewhere() -> None:
    """Most kinds of requests succeed now and then, or the fuzzer would test the refusals only."""
    succeeded = set()
    for seed in range(SEED, SEED + 10):
        server, _ = world(seed)
        fuzzer = Fuzzer(seed)
        initialize(server)
        for _ in range(1000):
            request = fuzzer.request()
            space = bytearray(4112)
            length = server.handle([memoryview(request)], [memoryview(space)])
            fuzzer.learn(space[:length])
            if length and not struct.unpack_from("<i", space, 4)[0]:
                succeeded.add(fuzzer.opcode)
            if not server.initialized:
                initialize(server)
    wanted = {fuse.LOOKUP, fuse.GETATTR, fuse.SETATTR, fuse.OPEN, fuse.READ, fuse.WRITE, fuse.RELEASE, fuse.CREATE}
    wanted |= {fuse.MKDIR, fuse.UNLINK, fuse.RENAME, fuse.LINK, fuse.READDIR, fuse.READDIRPLUS, fuse.OPENDIR}
    wanted |= {fuse.SYMLINK, fuse.READLINK, fuse.LSEEK, fuse.IOCTL, fuse.STATFS, fuse.SETXATTR, fuse.LISTXATTR}
    assert wanted - succeeded == set()


@pytest.mark.full
@pytest.mark.parametrize("part", range(10))
def test_a_million_messages(part: int) -> None:
    run_seed(SEED + part, 2000)  # what is allocated once is allocated now
    before = memory()
    for seed in range(SEED + part * 1000, SEED + part * 1000 + 50):
        run_seed(seed, 2000)
    assert memory() - before < 32 << 20
