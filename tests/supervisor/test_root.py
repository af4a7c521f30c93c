"""Composing a root: paths, parents, sources, and what cannot be."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pykrun.errors import UsageError
from pykrun.host.unsized import read_to_end
from pykrun.root import Root, guest_path
from pykrun.share import Share
from pykrun.start_data import StartData
from pykrun.supervisor.wiring import compose


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


@pytest.mark.root
@pytest.mark.parametrize("minor", [5, 7, 8, 9])
def test_devices_without_an_end_are_refused(tmp_path: Path, minor: int) -> None:
    os.mknod(tmp_path / "endless", stat.S_IFCHR | 0o600, os.makedev(1, minor))
    before = len(os.listdir("/proc/self/fd"))
    for add in (Root().host_file, Root(bare=True).host_file, Root().secret, Root(bare=True).secret):
        with pytest.raises(UsageError, match="has no end"):
            add("/f", os.fspath(tmp_path / "endless"))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.root
def test_a_device_that_ends_is_read(tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    root = Root()
    root.host_file("/f", os.fspath(tmp_path / "null"))
    assert root.files[b"/f"].content == b""


ENDLESS = """
import resource, subprocess
resource.setrlimit(resource.RLIMIT_AS, (300 << 20,) * 2)
from pykrun.errors import UsageError
from pykrun.root import Root
writer = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
for add in (Root().host_file, Root().secret):
    try:
        add("/f", f"/proc/self/fd/{writer.stdout.fileno()}")
    except UsageError as error:
        print(error)
writer.kill()
"""


def test_a_pipe_without_an_end_ends_with_the_memory() -> None:
    command = [sys.executable, "-c", ENDLESS]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, timeout=60
    )
    said = done.stdout.splitlines()
    assert len(said) == 2, done.stderr
    assert all(line.startswith("cannot read '/proc/self/fd/") for line in said)
    assert all("Cannot allocate memory" in line or "does not end within" in line for line in said)


def test_a_secret_that_its_server_cannot_read_is_named() -> None:
    read, write = os.pipe()
    root = Root(bare=True)
    root.secret("/key", f"/proc/self/fd/{read}")
    (descriptor,) = (file.content for file in root.files.values())
    assert isinstance(descriptor, int)
    os.set_blocking(descriptor, False)
    with pytest.raises(OSError, match="the secret /key: Resource temporarily unavailable"):
        Share(root=root).compose()
    os.close(read)
    os.close(write)


def test_what_brings_more_than_may_be_is_refused() -> None:
    read, write = os.pipe()
    os.write(write, bytes(101))
    os.close(write)
    with pytest.raises(OSError, match="does not end within") as caught:
        read_to_end(read, 100)
    assert caught.value.errno == errno.EFBIG
    os.close(read)


def test_secrets_are_read_into_a_buffer_of_ours(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"k" * 100_000)
    root = Root()
    root.secret("/key", os.fspath(tmp_path / "key"))
    secret = root.files[b"/key"]
    assert isinstance(secret.content, memoryview)
    assert (bytes(secret.content), secret.mode, secret.one_shot) == (b"k" * 100_000, 0o400, True)
    root.close()
    assert bytes(secret.content) == bytes(100_000)


@pytest.mark.parametrize("path", ["/.krun_start.json", "/.krun_start.json/x", "/init.krun/x", "/init.krun/x/y"])
def test_what_pykrun_puts_there_itself_cannot_be_given(path: str) -> None:
    for add in (lambda root: root.file(path, b""), lambda root: root.directory(path)):
        root = Root()
        with pytest.raises(UsageError, match=r"pykrun"):
            add(root)
        assert not root.files
        assert not root.directories


def test_init_may_be_given_as_a_file_only() -> None:
    root = Root()
    root.file("/init.krun", b"")
    with pytest.raises(UsageError, match="cannot be a directory"):
        Root().directory("/init.krun")


def test_a_composed_root_has_one_descriptor_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    theirs = os.open(tmp_path / "f", os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    root = Root()
    for number in range(10):
        root.host_file(f"/{number}", os.fspath(tmp_path / "f"))
    root.file("/init.krun", b"")
    filesystem = compose(root, StartData(), "", lambda code: None)
    assert len(os.listdir("/proc/self/fd")) == before + 10
    root.close()
    assert len(os.listdir("/proc/self/fd")) == before + 10, "the file system needs them"
    filesystem.close()
    assert len(os.listdir("/proc/self/fd")) == before
    other = Root()
    other.file("/init.krun", theirs)
    compose(other, StartData(), "", lambda code: None).close()
    other.close()
    os.close(theirs)  # a caller's own stays the caller's


def test_a_root_that_cannot_be_composed_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    read, write = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    root = Root()
    root.host_file("/f", os.fspath(tmp_path / "f"))
    root.file("/init.krun", read)  # no regular file
    with pytest.raises(OSError, match="regular"):
        compose(root, StartData(), "", lambda code: None)
    root.close()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("source", ["/does/not/exist", "/tmp"])
def test_sources_that_cannot_be_read(source: str) -> None:
    for add in (Root().host_file, Root().secret):
        with pytest.raises(UsageError, match=source):
            add("/f", source)
