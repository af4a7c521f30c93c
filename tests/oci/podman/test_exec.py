"""`podman exec`: further commands in a running container."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.podman.test_run import NOISE
from tests.support.command import wait_until
from tests.support.enclave import IMAGE, OURS, PASSWD
from tests.support.podman import Podman, host_kernel, said


@pytest.fixture
def running(podman: Podman) -> Iterator[str]:
    """A container that does nothing."""
    name = "running"
    podman.must("run", "-d", "--name", name, "-e", "OF=container", "-w", "/home", IMAGE, "sleep", "300")
    yield name
    podman.must("rm", "-f", "-t", "0", name)


def test_the_same_kernel_and_the_same_files(podman: Podman, running: str) -> None:
    kernel = podman.must("exec", running, "uname", "-r")
    assert (kernel == host_kernel()) is (podman.runtime != OURS)
    podman.must("exec", running, "sh", "-c", "echo kept > /home/file")
    assert podman.must("exec", running, "cat", "/home/file") == "kept"
    assert "sleep 300" in podman.must("exec", running, "ps").replace("{sleep} ", "")


@pytest.mark.parametrize("code", [0, 5, 255])
def test_exit_codes(podman: Podman, running: str, code: int) -> None:
    result = podman("exec", running, "sh", "-c", f"exit {code}")
    assert result.returncode == code, said(result)


@pytest.mark.parametrize(("command", "code"), [("/nothing/here", 127), ("/etc/plain", 126)])
def test_a_command_that_cannot_be_started(podman: Podman, running: str, command: str, code: int) -> None:
    result = podman("exec", running, command)
    assert result.returncode == code, said(result)
    assert command in result.stderr.decode() or podman.runtime != OURS


def test_streams_are_apart_and_exact(podman: Podman, running: str) -> None:
    result = podman("exec", "-i", running, "sh", "-c", "cat; echo to error >&2; exit 7", stdin=NOISE)
    assert result.stdout == NOISE
    assert b"to error\n" in result.stderr
    assert result.returncode == 7


def test_environment_directory_and_user(podman: Podman, running: str) -> None:
    script = "echo $OF,$MORE,$FROM_IMAGE; pwd; id -u; id -g"
    output = podman.must("exec", "-e", "MORE=more", "-w", "/tmp", "-u", "app", running, "sh", "-c", script)
    assert output.splitlines() == ["container,more,yes", "/tmp", "1000", "1001"]
    assert podman.must("exec", running, "pwd") == "/home"


def test_detached(podman: Podman, running: str) -> None:
    podman.must("exec", "-d", running, "sh", "-c", "sleep 0.3; echo late > /tmp/late")
    wait_until(lambda: podman("exec", running, "cat", "/tmp/late").stdout == b"late\n", 20)


def test_many_at_once(podman: Podman, running: str) -> None:
    started = [
        podman.start("exec", running, "sh", "-c", f"sleep 0.5; echo {n}; exit {n}", stdout=subprocess.PIPE)
        for n in range(8)
    ]
    for number, process in enumerate(started):
        assert process.communicate(timeout=60)[0] == b"%d\n" % number
        assert process.returncode == number


def test_the_containers_end_is_the_commands(podman: Podman, running: str) -> None:
    process = podman.start("exec", running, "sh", "-c", "echo here; sleep 200", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"here\n"
    podman.must("kill", running)
    assert process.wait(30) not in (0, None)
    process.stdout.close()


def test_copying(podman: Podman, running: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(NOISE)
    podman.must("cp", tmp_path / "in", f"{running}:/home/copied")
    assert not Path("/home/copied").exists(), "it went to the host"
    podman.must("exec", running, "sh", "-c", "cat /home/copied /etc/passwd > /home/back; ln -s / /home/root")
    podman.must("cp", f"{running}:/home/back", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == NOISE + PASSWD
    # The guest's links lead nowhere but into its own tree.
    podman.must("cp", f"{running}:/home/root/etc/passwd", tmp_path / "passwd")
    assert (tmp_path / "passwd").read_bytes() == PASSWD
    for outside in ("/proc/1/root", "/proc/self/root", "/proc/self/cwd", f"/proc/{podman.pid(running)}/root"):
        podman.must("exec", running, "busybox", "ln", "-snf", outside, "/home/root")
        podman("cp", f"{running}:/home/root/etc/passwd", tmp_path / "other")
        if (tmp_path / "other").exists():
            assert (tmp_path / "other").read_bytes() == PASSWD, outside


def test_health(podman: Podman) -> None:
    check = ["--health-cmd", "test -e /tmp/well", "--health-interval=disable", "--health-retries=1"]
    podman.must("run", "-d", "--name", "checked", *check, IMAGE, "sleep", "100")
    assert podman("healthcheck", "run", "checked").returncode == 1
    podman.must("exec", "checked", "touch", "/tmp/well")
    podman.must("healthcheck", "run", "checked")
    assert podman.inspect("checked")["State"]["Health"]["Status"] == "healthy"
    podman.must("rm", "-f", "-t", "0", "checked")


def test_not_when_it_has_ended(podman: Podman) -> None:
    podman.must("run", "--name", "ended", IMAGE, "true")
    result = podman("exec", "ended", "true")
    assert result.returncode == 255
    assert b"container state improper" in result.stderr
    podman.must("rm", "ended")
