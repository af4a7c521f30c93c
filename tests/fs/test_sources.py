"""Where virtual bytes come from: memory, files, callables; what is dropped is gone."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path

import pytest

from pykrun.fs import FileSource, LazySource, MemorySource, Source
from pykrun.fs.sources import as_source

DATA = bytes(range(256)) * 40


def read(source: Source, offset: int, *sizes: int) -> bytes:
    space = bytearray(sum(sizes))
    view = memoryview(space)
    buffers = []
    for size in sizes:
        buffers.append(view[:size])
        view = view[size:]
    return bytes(space[: source.read_into(offset, buffers)])


def file_source(path: Path) -> FileSource:
    (path / "file").write_bytes(DATA)
    return FileSource.of_path(path / "file")


def mapping() -> mmap.mmap:
    area = mmap.mmap(-1, len(DATA))
    area[:] = DATA
    return area


@pytest.fixture(params=["bytes", "bytearray", "memoryview", "mmap", "file", "lazy", "lazy file"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    made: dict[str, Source] = {
        "bytes": MemorySource(DATA),
        "bytearray": MemorySource(bytearray(DATA)),
        "memoryview": MemorySource(memoryview(DATA)),
        "mmap": MemorySource(mapping()),
        "file": file_source(tmp_path),
        "lazy": LazySource(lambda: DATA),
        "lazy file": LazySource(lambda: file_source(tmp_path)),
    }
    return made[request.param]


@pytest.mark.parametrize("sizes", [(64,), (len(DATA),), (1, 15, 4096), (4096,) * 4, (len(DATA) + 1,)])
@pytest.mark.parametrize("offset", [0, 1, 512, len(DATA) - 10, len(DATA) - 1, len(DATA), len(DATA) + 1, 1 << 62])
def test_any_range(source: Source, offset: int, sizes: tuple[int, ...]) -> None:
    assert source.open() == len(DATA)
    assert read(source, offset, *sizes) == DATA[offset : offset + sum(sizes)]
    source.drop()


def test_dropped_bytes_are_not_served(source: Source) -> None:
    source.open()
    source.drop()
    source.drop()
    with pytest.raises(OSError):
        read(source, 0, 10)


def test_empty() -> None:
    assert MemorySource(b"").open() == 0
    assert read(MemorySource(b""), 0, 10) == b""


def test_memory_is_not_copied() -> None:
    data = bytearray(DATA)
    source = MemorySource(data)
    data[0] = 77
    assert read(source, 0, 1) == b"\x4d"


def test_wiped() -> None:
    data = bytearray(b"secret" * 20000)
    source = MemorySource(data, wipe=True)
    assert read(source, 0, 6) == b"secret"
    source.drop()
    assert data == bytes(len(data))


def test_not_wiped_unless_ours() -> None:
    data = bytearray(b"secret")
    MemorySource(data).drop()
    assert data == b"secret"
    with pytest.raises(ValueError, match="writable"):
        MemorySource(b"secret", wipe=True)


def test_file_that_shrinks_ends_early_and_one_that_grows_does_not(tmp_path: Path) -> None:
    source = file_source(tmp_path)
    os.truncate(tmp_path / "file", 100)
    assert source.open() == len(DATA)
    assert read(source, 0, 4096) == DATA[:100]
    with (tmp_path / "file").open("ab") as stream:
        stream.write(bytes(2 * len(DATA)))
    assert len(read(source, 0, 3 * len(DATA))) == len(DATA)
    source.drop()


def test_file_keeps_its_own_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    source = file_source(tmp_path)
    assert read(source, 0, 5) == DATA[:5]
    source.drop()
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError) as caught:
            FileSource.of_path(path)
        assert caught.value.errno == errno.EINVAL


def test_a_descriptor_is_duplicated_or_taken_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    before = os.listdir("/proc/self/fd")
    FileSource(descriptor).drop()
    os.fstat(descriptor)
    source = FileSource(descriptor, own=True)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert read(source, 0, 5) == DATA[:5]
    source.drop()
    folder = os.open(tmp_path, os.O_RDONLY)
    assert folder == descriptor, "not closed, or not the one"
    with pytest.raises(OSError):
        FileSource(folder, own=True)
    with pytest.raises(OSError):
        os.fstat(folder)


def test_callable_runs_once_and_late() -> None:
    calls: list[int] = []

    def produce() -> bytes:
        calls.append(1)
        return DATA

    source = LazySource(produce)
    assert not calls
    threads = [threading.Thread(target=source.open) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
    assert read(source, 5, 5) == DATA[5:10]


def test_callable_that_fails_is_an_io_error_for_good() -> None:
    calls: list[int] = []

    def produce() -> bytes:
        calls.append(1)
        raise KeyError("nothing there")

    source = LazySource(produce)
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            source.open()
        assert caught.value.errno == errno.EIO
    assert calls == [1]


def test_what_content_may_be() -> None:
    source = MemorySource(b"x")
    assert as_source(source) is source
    assert isinstance(as_source(b"x"), MemorySource)
    assert isinstance(as_source(lambda: b"x"), LazySource)
    with pytest.raises(TypeError):
        as_source(7)  # type: ignore[arg-type]  # what an untyped caller may do
