"""Composing a root: paths, parents, sources, and what cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pykrun.errors import UsageError
from pykrun.root import Root, guest_path


@pytest.mark.parametrize(("given", "path"), [("/a", b"/a"), ("/a/b/", b"/a/b"), ("/\udcff", b"/\xff"), (b"/x", b"/x")])
def test_guest_paths(given: str | bytes, path: bytes) -> None:
    assert guest_path(given) == path


@pytest.mark.parametrize("given", ["", "a", "/", "//", "/a//b", "/./a", "/a/..", "/a\0b", "/" + "n" * 256])
def test_paths_that_cannot_be(given: str) -> None:
    with pytest.raises(UsageError):
        guest_path(given)


def test_parents_come_first_and_mount_points_always() -> None:
    root = Root()
    root.file("/a/b/c", b"")
    root.directory("/a", mode=0o700)
    directories = root.missing_directories()
    assert directories == {b"/dev": 0o755, b"/proc": 0o755, b"/sys": 0o755, b"/a": 0o700, b"/a/b": 0o755}
    assert list(directories).index(b"/a") < list(directories).index(b"/a/b")


def test_what_collides_is_an_error() -> None:
    root = Root()
    root.file("/a", b"")
    with pytest.raises(UsageError, match="twice"):
        root.file("/a", b"")
    with pytest.raises(UsageError, match="at once"):
        root.directory("/a")
    root.file("/a/b", b"")
    with pytest.raises(UsageError, match="must be a directory"):
        root.missing_directories()
    other = Root()
    other.directory("/d")
    with pytest.raises(UsageError, match="at once"):
        other.file("/d", b"")


def test_host_files_keep_their_mode_and_are_not_read(tmp_path: Path) -> None:
    source = tmp_path / "f"
    source.write_bytes(b"one")
    source.chmod(0o741)
    root = Root()
    root.host_file("/f", os.fspath(source))
    root.host_file("/g", os.fspath(source), mode=0o600)
    content = root.files[b"/f"].content
    assert isinstance(content, int)
    assert os.pread(content, 10, 0) == b"one"
    assert (root.files[b"/f"].mode, root.files[b"/g"].mode) == (0o741, 0o600)
    root.close()
    with pytest.raises(OSError):
        os.fstat(content)


def test_pipes_are_read_at_once() -> None:
    read, write = os.pipe()
    os.write(write, b"piped")
    os.close(write)
    root = Root()
    root.host_file("/f", f"/proc/self/fd/{read}", mode=0o644)
    assert root.files[b"/f"].content == b"piped"
    os.close(read)


def test_secrets_are_read_into_a_buffer_of_ours(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"k" * 100_000)
    root = Root()
    root.secret("/key", os.fspath(tmp_path / "key"))
    secret = root.files[b"/key"]
    assert isinstance(secret.content, bytearray)
    assert (bytes(secret.content), secret.mode, secret.one_shot) == (b"k" * 100_000, 0o400, True)


@pytest.mark.parametrize("source", ["/does/not/exist", "/tmp"])
def test_sources_that_cannot_be_read(source: str) -> None:
    for add in (Root().host_file, Root().secret):
        with pytest.raises(UsageError, match=source):
            add("/f", source)
