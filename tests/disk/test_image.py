"""Images are opened, checked and locked before anything runs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pykrun.disk import open_image
from pykrun.errors import UsageError
from pykrun.machine import Disk
from tests.sandbox.prison import PYTHON, ROOT, USER


class Opener:
    """Opens images and closes them at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, path: Path | str, *, read_only: bool = False) -> Disk:
        disk = open_image(str(path), read_only=read_only)
        self._stack.callback(os.close, disk.descriptor)
        return disk


@pytest.fixture
def opened() -> Iterator[Opener]:
    with ExitStack() as stack:
        yield Opener(stack)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(4096))
    return path


def test_a_file(opened: Opener, image: Path) -> None:
    disk = opened(image)
    assert (disk.size, disk.read_only, disk.format) == (4096, False, "raw")
    os.pwrite(disk.descriptor, b"x", 0)


def test_a_read_only_one_cannot_be_written(opened: Opener, image: Path) -> None:
    disk = opened(image, read_only=True)
    assert disk.read_only
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(disk.descriptor, b"x", 0)


def refusal(path: Path | str, *, read_only: bool = False) -> str:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError) as caught:
        open_image(str(path), read_only=read_only)
    assert len(os.listdir("/proc/self/fd")) == before
    return str(caught.value)


def test_what_is_no_image(tmp_path: Path, image: Path) -> None:
    assert "No such file or directory" in refusal(tmp_path / "missing")
    assert "is a directory" in refusal(tmp_path)
    image.with_name("empty").touch()
    assert "is empty" in refusal(image.with_name("empty"))
    assert "no file has such a name" in refusal("a\0b")
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/null"):
        assert "neither a file nor a block device" in refusal(path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        assert "neither a file nor a block device" in refusal(tmp_path / "socket")


def test_part_of_a_sector(image: Path) -> None:
    """Cutting it off would lose its bytes, adding to it would change the file: the user says what is right."""
    image.write_bytes(bytes(1000))
    assert f"1000 bytes, which is no multiple of 512 (`truncate -s %512 {image}`" in refusal(image)
    subprocess.run(["truncate", "-s", "%512", image], check=True)
    assert image.stat().st_size == 1024


@pytest.mark.root
def test_a_file_that_may_not_be_read(image: Path) -> None:
    """As an ordinary user, in a process of their own."""
    if PYTHON is None:
        pytest.skip("an ordinary user can run no Python here")
    script = (
        "import sys\nfrom pykrun.disk import open_image\nfrom pykrun.errors import UsageError\n"
        "for ro in (False, True):\n"
        "  try:\n    open_image(sys.argv[1], read_only=ro)\n    print('opened')\n"
        "  except UsageError as e:\n    print(e)\n"
    )

    def as_user(mode: int) -> list[str]:
        with open("/dev/shm/pykrun-test-image", "wb") as file:
            file.write(bytes(512))
            os.fchmod(file.fileno(), mode)
        try:
            return subprocess.run(
                [PYTHON or sys.executable, "-s", "-c", script, "/dev/shm/pykrun-test-image"],
                env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
                capture_output=True,
                text=True,
                user=USER,
                group=USER,
                extra_groups=[],
                check=True,
                timeout=60,
                cwd="/",
            ).stdout.splitlines()
        finally:
            os.unlink("/dev/shm/pykrun-test-image")

    write, read = as_user(0o600)
    assert "Permission denied (add :ro if it may only be read)" in write
    assert read.endswith("Permission denied")
    write, read = as_user(0o644)
    assert "Permission denied (add :ro" in write
    assert read == "opened"


def test_one_writer_or_many_readers(opened: Opener, image: Path) -> None:
    first = open_image(str(image))
    assert "is in use, by another VM perhaps" in refusal(image)
    assert "is in use" in refusal(image, read_only=True)
    os.close(first.descriptor)
    opened(image, read_only=True)
    opened(image, read_only=True)
    assert "is in use" in refusal(image)


def test_the_lock_lives_with_the_last_copy(image: Path) -> None:
    """The server of a disk outlives the supervisor by a moment; until its end nobody else may write."""
    disk = open_image(str(image))
    child = subprocess.Popen(["sleep", "1000"], pass_fds=[disk.descriptor])
    os.close(disk.descriptor)
    try:
        assert "is in use" in refusal(image)
    finally:
        child.kill()
        child.wait()
    os.close(open_image(str(image)).descriptor)


def qemu(program: str, *words: str) -> str:
    """What a program of QEMU's says."""
    if shutil.which(program) is None:
        pytest.skip(f"no {program} on PATH (apt-get install qemu-utils)")
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_qemu_sees_our_lock(opened: Opener, image: Path) -> None:
    opened(image, read_only=True)
    assert "virtual size: 4 KiB" in qemu("qemu-img", "info", "-f", "raw", str(image))
    assert 'Failed to get "write" lock' in qemu("qemu-io", "-f", "raw", "-c", "read 0 512", str(image))


def test_qemu_sees_our_writer(opened: Opener, image: Path) -> None:
    opened(image)
    assert 'write" lock' in qemu("qemu-io", "-f", "raw", "-c", "read 0 512", str(image))


def test_we_see_qemus_lock(image: Path) -> None:
    if shutil.which("qemu-io") is None:
        pytest.skip("no qemu-io on PATH (apt-get install qemu-utils)")
    command = ["qemu-io", "-f", "raw", str(image)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"read 0 512\n")
        while b"read 512/512" not in (line := holder.stdout.readline()):
            assert line
        assert "is in use" in refusal(image)
        assert "is in use" in refusal(image, read_only=True)
        holder.communicate(b"quit\n", timeout=60)


@pytest.mark.root
def test_a_block_device_of_the_host(opened: Opener, image: Path, tmp_path: Path) -> None:
    """Its size is the device's; while the host has it mounted nobody else may write to it."""
    image.write_bytes(bytes(8 << 20))
    try:
        loop = subprocess.run(
            ["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop device: {error}")
    try:
        first = open_image(loop)
        assert first.size == 8 << 20
        os.close(first.descriptor)
        subprocess.run(["mke2fs", "-q", loop], check=True, timeout=60)
        (tmp_path / "mnt").mkdir()
        subprocess.run(["mount", loop, str(tmp_path / "mnt")], check=True)
        try:
            assert "this host uses it itself" in refusal(loop)
            opened(loop, read_only=True)
        finally:
            subprocess.run(["umount", str(tmp_path / "mnt")], check=True)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
