"""Random guests over a folder of the host: nothing outside is touched, nothing leaks, and what an honest guest does has
the same outcome as without us.
"""

from __future__ import annotations

import os
import resource
import shutil
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pykrun.fs import AugmentFs, FileSystem, InodeAllocator
from pykrun.fs.passthrough import ExportTable, Options, PassthroughFs
from pykrun.fs.readonly import ReadOnly
from pykrun.fuse import Server
from tests.fuse.fuzzer import Fuzzer
from tests.fuse.guest import Guest
from tests.fuse.test_fuzz import initialize
from tests.passthrough.shared import descriptors
from tests.passthrough.test_hostile import Outside
from tests.posix.native import NativeView
from tests.posix.table import get, outcome, put
from tests.posix.view import EXCHANGE, NOREPLACE, View
from tests.posix.wire import WireView

SEED = 20261126
LARGEST = 16 << 20


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory where that is possible: guests sync, and files of theirs stay small."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = Path(tempfile.mkdtemp(prefix="pykrun-fuzz", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, limit[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    shutil.rmtree(folder)


# Anything at all


def furnish(folder: Path, outside: Path) -> None:
    for name in ("etc/real", "real", "dir/leaf", "text"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"content" * 100)
    os.symlink(outside, folder / "bad")
    os.symlink(outside / "secret", folder / "lazy")
    os.mkfifo(folder / "f1")
    if os.geteuid() == 0:
        os.mknod(folder / "f2", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def served(folder: Path, seed: int, exports: ExportTable) -> tuple[FileSystem, PassthroughFs]:
    allocator = InodeAllocator()
    options = Options(
        cache=("auto", "always", "never")[seed % 3],
        writeback=seed % 2 == 0,
        posix_locks=seed % 2 == 1,
        flocks=seed % 2 == 1,
        posix_acl=seed % 5 == 0,
        exports=exports,
    )
    inner = PassthroughFs(str(folder), allocator, options, descriptors=120)
    if seed % 4 == 0:
        return ReadOnly(inner), inner
    if seed % 4 == 1:
        return inner, inner
    top = AugmentFs(inner, allocator)
    top.add_directory(b"/etc")
    top.add_file(b"/etc/text", b"virtual")
    top.add_file(b"/once", b"secret", one_shot=True)
    return top, inner


def run_seed(place: Path, seed: int, count: int) -> None:
    outside = Outside(place / f"outside{seed}")
    folder = place / f"share{seed}"
    folder.mkdir()
    furnish(folder, outside.folder)
    before = descriptors()
    exports = ExportTable(limit=8)
    filesystem, inner = served(folder, seed, exports)
    server = Server(filesystem, max_inodes=64, max_handles=1000)
    fuzzer = Fuzzer(seed)
    initialize(server)
    for number in range(count):
        request = fuzzer.request()
        space = bytearray(fuzzer.room())
        length = server.handle(fuzzer.divide(request), fuzzer.divide(space))
        assert 0 <= length <= len(space), (seed, number)
        assert not length or struct.unpack_from("<I", space)[0] == length, (seed, number)
        fuzzer.learn(space[:length])
        if not server.initialized:
            initialize(server)
        if number % 100 == 0:
            assert descriptors() - before < 140, (seed, number)
            inner._inodes.give_up(number % 7)
    assert server.faults == 0, seed
    server.reset()
    assert (len(inner._inodes), inner._open_files, len(exports)) == (1, 0, 0), seed
    filesystem.close()
    assert descriptors() == before, seed
    outside.check()
    shutil.rmtree(os.fsencode(folder))
    shutil.rmtree(outside.folder)


@pytest.mark.parametrize("seed", range(SEED, SEED + 12))
def test_random_guests(place: Path, seed: int) -> None:
    run_seed(place, seed, 2000)


@pytest.mark.full
@pytest.mark.parametrize("part", range(10))
def test_many_random_guests(place: Path, part: int) -> None:
    for seed in range(SEED + part * 1000, SEED + part * 1000 + 30):
        run_seed(place, seed, 2000)


# An honest guest, beside the same work without a server

Step = Callable[["Twin"], Any]
NAMES = st.sampled_from([b"a", b"b", b"c", b"d/a", b"d/b", b"e/a", b"d", b"e", b"d/e", b"\xff"])


class Twin:
    """One view, and the files that its work has open."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.files: list[Any] = []

    def open(self, path: bytes, flags: int) -> int:
        file = self.view.open(path, flags)
        if stat.S_ISDIR(self.view.fstat(file).mode) or len(self.files) > 5:
            self.view.close(file)
            return -1
        self.files.append(file)
        return len(self.files)

    def tmpfile(self) -> int:
        self.files.append(self.view.tmpfile(b"", os.O_RDWR))
        return len(self.files)

    def use(self, number: int, work: Callable[[Any], Any]) -> Any:
        return work(self.files[number % len(self.files)]) if self.files else None

    def close(self, number: int) -> None:
        if self.files:
            self.view.close(self.files.pop(number % len(self.files)))

    def close_all(self) -> None:
        while self.files:
            self.close(0)


def told(status: Any) -> tuple[int, ...]:
    size = 0 if stat.S_ISDIR(status.mode) else status.size
    return status.mode, status.nlink, status.uid, status.gid, size


STEPS: dict[str, st.SearchStrategy[Step]] = {
    "put": st.builds(lambda n, d: lambda t: put(t.view, n, d), NAMES, st.binary(max_size=20)),
    "get": st.builds(lambda n: lambda t: get(t.view, n) if n not in (b"d", b"e", b"d/e") else None, NAMES),
    "mkdir": st.builds(lambda n, m: lambda t: t.view.mkdir(n, m), NAMES, st.sampled_from([0o755, 0o700])),
    "rmdir": st.builds(lambda n: lambda t: t.view.rmdir(n), NAMES),
    "unlink": st.builds(lambda n: lambda t: t.view.unlink(n), NAMES),
    "symlink": st.builds(lambda n, m: lambda t: t.view.symlink(n, m), NAMES, NAMES),
    "readlink": st.builds(lambda n: lambda t: t.view.readlink(n), NAMES),
    "link": st.builds(lambda n, m: lambda t: t.view.link(n, m), NAMES, NAMES),
    "rename": st.builds(
        lambda n, m, f: lambda t: t.view.rename(n, m, f), NAMES, NAMES, st.sampled_from([0, 0, NOREPLACE, EXCHANGE])
    ),
    "lstat": st.builds(lambda n: lambda t: told(t.view.lstat(n)), NAMES),
    "chmod": st.builds(lambda n, m: lambda t: t.view.chmod(n, m), NAMES, st.integers(0o500, 0o777)),
    "truncate": st.builds(lambda n, s: lambda t: t.view.truncate(n, s), NAMES, st.integers(0, 9000)),
    "names": st.builds(lambda n: lambda t: t.view.names(n), NAMES),
    "root": st.just(lambda t: t.view.names(b"")),
    "open": st.builds(lambda n, f: lambda t: t.open(n, f), NAMES, st.sampled_from([os.O_RDONLY, os.O_RDWR])),
    "tmpfile": st.just(lambda t: t.tmpfile()),
    "pwrite": st.builds(
        lambda i, o, d: lambda t: t.use(i, lambda f: t.view.pwrite(f, d, o)),
        st.integers(0, 5),
        st.integers(0, 9000),
        st.binary(min_size=1, max_size=9),
    ),
    "pread": st.builds(lambda i: lambda t: t.use(i, lambda f: t.view.pread(f, 9999, 0)), st.integers(0, 5)),
    "fstat": st.builds(lambda i: lambda t: t.use(i, lambda f: told(t.view.fstat(f))), st.integers(0, 5)),
    "link_file": st.builds(lambda i, n: lambda t: t.use(i, lambda f: t.view.link_file(f, n)), st.integers(0, 5), NAMES),
    "close": st.builds(lambda i: lambda t: t.close(i), st.integers(0, 5)),
}
ONE_STEP = st.one_of(*(st.tuples(st.just(name), step) for name, step in STEPS.items()))


def result(twin: Twin, step: Step) -> object:
    try:
        return step(twin)
    except OSError as error:
        return OSError, error.errno


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(ONE_STEP, min_size=5, max_size=60), evict=st.integers(1, 9))
def test_an_honest_guest_sees_no_difference(place: Path, steps: list[tuple[str, Step]], evict: int) -> None:
    compare(place, steps, evict)


@pytest.mark.full
@settings(max_examples=1500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(ONE_STEP, min_size=10, max_size=200), evict=st.integers(1, 9))
def test_long_work_makes_no_difference(place: Path, steps: list[tuple[str, Step]], evict: int) -> None:
    compare(place, steps, evict)


def compare(place: Path, steps: list[tuple[str, Step]], evict: int) -> None:
    folders = place / "served", place / "plain"
    for folder in folders:
        folder.mkdir()
        (folder / "d").mkdir()
    filesystem = PassthroughFs(str(folders[0]), InodeAllocator(), descriptors=120)
    guest = Guest(filesystem, max_handles=1000)
    wire = WireView(guest, 1, os.geteuid(), os.getegid())
    served, plain = Twin(wire), Twin(NativeView(os.fsencode(folders[1])))
    old = os.umask(0)
    try:
        for number, (name, step) in enumerate(steps):
            assert result(served, step) == result(plain, step), (number, name)
            if number % evict == 0:
                filesystem._inodes.give_up(100)
        for twin in (served, plain):
            twin.close_all()
        assert tree(folders[0]) == tree(folders[1])
        wire.forget_all()
        assert (len(filesystem._inodes), filesystem._open_files) == (1, 0)
        assert guest.server.faults == 0
    finally:
        os.umask(old)
        for twin in (served, plain):
            outcome(twin.close_all)
        guest.server.reset()
        filesystem.close()
        for folder in folders:
            shutil.rmtree(folder)


def tree(folder: Path) -> list[object]:
    found: list[object] = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data: object = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        data = os.readlink(path) if path.is_symlink() else data
        found.append((str(path.relative_to(folder)), status.st_mode, status.st_nlink, data))
    return found
