"""What a jail has for a program that serves an image: one file that it may write, ids that may open it, a way to it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pykrun.errors import EngineError, SandboxError
from pykrun.sandbox import FILES, NAMESPACES, WORK, start
from tests.sandbox import prison

OWNER = (12345, 12346)


def run(script: str, path: Path, descriptor: int, **more: object) -> str:
    """Run a script in a jail with one image."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            jail = prison.jail(script, theirs.fileno(), images={"image": (str(path), descriptor)}, **more)
            inmate = start(jail, "require" if os.geteuid() == 0 else "auto")
        try:
            assert inmate.isolation
            return b"".join(iter(lambda: ours.recv(65536), b"")).decode()
        finally:
            inmate.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_text("content\n")
    path.chmod(0o600)
    return path


@pytest.mark.root
def test_the_image_can_be_written_and_nothing_else(image: Path) -> None:
    os.chown(image, *OWNER)
    descriptor = os.open(image, os.O_RDWR)
    script = (
        f"cat {FILES}image; echo new > {FILES}image; cat {FILES}image; busybox id -u; busybox id -g; busybox id -G;"
        f"echo x > {FILES}other || echo no other; echo x > /bin/busybox || echo no program"
    )
    said = run(script, image, descriptor, identity=OWNER)
    os.close(descriptor)
    lines = [line for line in said.splitlines() if "sh: " not in line]
    assert lines == ["content", "new", "12345", "12346", "12346", "no other", "no program"]
    assert image.read_text() == "new\n"


@pytest.mark.root
def test_as_root_it_has_no_rights_of_roots(image: Path, tmp_path: Path) -> None:
    """An image of root's: the program is user 0 without capabilities, in a root where all else is read-only."""
    descriptor = os.open(image, os.O_RDWR)
    script = (
        f"echo mine > {FILES}image; busybox id -u; busybox chown 5 {FILES}image || echo no chown;"
        "busybox mount -t tmpfs none /tmp || echo no mount; busybox mount -o remount,rw / || echo no remount;"
        "busybox mknod /room/x b 7 0 || echo no mknod; busybox chroot / true || echo no chroot"
    )
    said = run(script, image, descriptor, identity=(0, 0))
    os.close(descriptor)
    answers = [line for line in said.splitlines() if line.startswith("no ") or line.isdigit()]
    assert answers[0] == "0"
    assert {"no chown", "no mount", "no remount", "no mknod", "no chroot"} <= set(answers)
    assert image.read_text() == "mine\n"
    assert image.stat().st_uid == 0


@pytest.mark.root
def test_without_an_identity_the_image_is_out_of_reach(image: Path) -> None:
    descriptor = os.open(image, os.O_RDWR)
    assert "content" not in run(f"cat {FILES}image", image, descriptor)
    os.close(descriptor)


@pytest.mark.root
def test_a_path_that_leads_elsewhere_meanwhile(image: Path, tmp_path: Path) -> None:
    descriptor = os.open(image, os.O_RDWR)
    (tmp_path / "secret").write_text("secret")
    image.unlink()
    image.symlink_to(tmp_path / "secret")
    with pytest.raises((EngineError, SandboxError), match="has become another file"):
        run(f"cat {FILES}image", image, descriptor)
    os.close(descriptor)


def test_a_listener_is_connected_to(tmp_path: Path) -> None:
    """Neither socket has a name outside of the jail."""
    listener, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    output, theirs = socket.socketpair()
    with listener, client, output:
        with theirs:
            jail = prison.jail(
                "echo up; sleep 1000", theirs.fileno(), listeners={"x": listener}, connected={"x": client}
            )
            inmate = start(jail)
        try:
            assert inmate.isolation.level == NAMESPACES or os.geteuid() != 0
            assert output.recv(10) == b"up\n"
            accepted, _ = listener.accept()
            with accepted:
                accepted.send(b"hello")
                assert client.recv(10) == b"hello"
            assert not Path(WORK).exists()
        finally:
            inmate.close()
