"""`podman run`: what a command gets, and what comes of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tests.support.enclave import IMAGE, OURS
from tests.support.podman import Podman, host_kernel, said

NOISE = bytes(range(256)) * 2000
"""Half a megabyte of every byte."""


def test_a_root_of_the_host(podman: Podman) -> None:
    tree = podman.store.tree
    output = podman.must("run", "--rm", "--rootfs", tree, "/bin/sh", "-c", "uname -sr; touch /home/made; ls /bin/sh")
    kernel, shell = output.splitlines()
    assert kernel.startswith("Linux ")
    assert (kernel == f"Linux {host_kernel()}") is (podman.runtime != OURS)
    assert shell == "/bin/sh"
    (tree / "home/made").unlink()


def test_an_image(podman: Podman) -> None:
    output = podman.sh("uname -r; echo $FROM_IMAGE; pwd; echo $container; id -u", "--hostname=named", "--name=one")
    kernel, *rest = output.splitlines()
    assert (kernel == host_kernel()) is (podman.runtime != OURS)
    assert rest == ["yes", "/", "podman", "0"]


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_codes(podman: Podman, code: int) -> None:
    result = podman("run", "--rm", IMAGE, "sh", "-c", f"exit {code}")
    assert result.returncode == code, said(result)


def test_an_end_by_a_signal(podman: Podman) -> None:
    result = podman("run", "--rm", "--init", IMAGE, "sh", "-c", "kill -9 $$")
    assert result.returncode == 128 + signal.SIGKILL, said(result)


@pytest.mark.parametrize(("command", "code"), [("/nothing/here", 127), ("/etc/plain", 126)])
def test_a_command_that_cannot_be_started(podman: Podman, command: str, code: int) -> None:
    result = podman("run", "--rm", IMAGE, command)
    assert result.returncode == code, said(result)
    assert command in result.stderr.decode() or podman.runtime != OURS


def test_a_runtime_that_is_a_path(ours: Podman) -> None:
    """Its name is told once; podman knows nothing of its log of objects then."""
    program = f"{ROOT / OURS}"
    result = Podman(ours.store, program)("run", "--rm", IMAGE, "nothing")
    assert result.returncode == 127, said(result)
    assert result.stderr.startswith(f"Error: {program}: executable file `nothing` not found".encode())


def test_streams_are_apart_and_exact(podman: Podman) -> None:
    result = podman("run", "--rm", "-i", IMAGE, "sh", "-c", "cat; echo to error >&2; exit 7", stdin=NOISE)
    assert result.stdout == NOISE
    assert result.stderr == b"to error\n"
    assert result.returncode == 7


def test_without_i_there_is_no_input(podman: Podman) -> None:
    assert podman.sh("cat; echo end", stdin=b"not for you") == "end"


def test_environment_directory_and_host_name(podman: Podman) -> None:
    script = "echo $ONE,$TWO,$FROM_IMAGE; pwd; hostname; grep -c named /etc/hosts; cat /etc/hostname"
    options = ["-e", "ONE=1 with space", "--env", "TWO=zwei", "-w", "/home", "--hostname", "named"]
    assert podman.sh(script, *options).splitlines() == ["1 with space,zwei,yes", "/home", "named", "1", "named"]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("app", "1000 1001 1001 1002"),
        ("1000:7", "1000 7 7"),
        ("4711", "4711 0 0"),
        ("0:0", "0 0 0"),
    ],
)
def test_users(podman: Podman, user: str, expected: str) -> None:
    assert podman.sh('echo "$(id -u) $(id -g) $(id -G)"', "-u", user) == expected


def test_further_groups(podman: Podman) -> None:
    assert podman.sh("id -G", "-u", "5:6", "--group-add", "77").split() == ["6", "77"]


def test_volumes(podman: Podman, tmp_path: Path) -> None:
    for name in ("rw", "ro"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"in {name}\n")
    (tmp_path / "alone").write_text("alone\n")
    script = """cat /rw/file /ro/file /etc/alone
        echo new > /rw/new && echo written
        echo new > /ro/new || echo refused
        echo changed >> /etc/alone; ls /etc/passwd"""
    volumes = [f"{tmp_path}/rw:/rw", f"{tmp_path}/ro:/ro:ro", f"{tmp_path}/alone:/etc/alone"]
    output = podman.sh(script, *(word for volume in volumes for word in ("-v", volume)))
    assert output.splitlines() == ["in rw", "in ro", "alone", "written", "refused", "/etc/passwd"]
    assert (tmp_path / "rw/new").read_text() == "new\n"
    assert (tmp_path / "rw/new").stat().st_uid == 0
    assert not (tmp_path / "ro/new").exists()
    assert (tmp_path / "alone").read_text() == "alone\nchanged\n"


def test_one_file_read_only(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "alone").write_text("alone\n")
    script = "cat /deep/er/alone; echo changed > /deep/er/alone || echo refused"
    assert podman.sh(script, "-v", f"{tmp_path}/alone:/deep/er/alone:ro") == "alone\nrefused"
    assert (tmp_path / "alone").read_text() == "alone\n"


def test_a_named_volume(podman: Podman) -> None:
    try:
        podman.sh("echo kept > /data/file", "-v", "kept:/data")
        assert podman.sh("cat /data/file", "-v", "kept:/data") == "kept"
    finally:
        podman("volume", "rm", "--force", "kept")


def test_read_only(podman: Podman) -> None:
    script = "touch /file || echo refused; touch /tmp/file && echo temporary"
    assert podman.sh(script, "--read-only") == "refused\ntemporary"


def test_read_only_without_exceptions(podman: Podman) -> None:
    script = "touch /file || echo refused; touch /tmp/file || echo refused too"
    assert podman.sh(script, "--read-only", "--read-only-tmpfs=false") == "refused\nrefused too"


def test_tmpfs(podman: Podman) -> None:
    script = """grep -c ' /scratch tmpfs ' /proc/mounts; stat -c %a /scratch
        dd if=/dev/zero of=/scratch/file bs=1M count=3 2>/dev/null || echo full"""
    assert podman.sh(script, "--tmpfs", "/scratch:size=2m,mode=700").splitlines() == ["1", "700", "full"]


def test_memory_becomes_the_guests(ours: Podman) -> None:
    script = "grep MemTotal /proc/meminfo"
    mebibytes = [int(ours.sh(script, *words).split()[1]) / 1024 for words in ([], ["--memory", "300m"])]
    assert 800 < mebibytes[0] < 1024
    assert 220 < mebibytes[1] < 300


def test_cpus(ours: Podman) -> None:
    assert ours.sh("nproc", "--cpus", "1") == "1"
    assert ours.sh("nproc", "--cpus", "0.5") == "1"


def test_limits(podman: Podman) -> None:
    limits = ["--ulimit", "nofile=100:200", "--ulimit", "nproc=1000:1000"]
    assert podman.sh("ulimit -n; ulimit -Hn", *limits).split() == ["100", "200"]


def test_capabilities(podman: Podman) -> None:
    effective = podman.sh("grep CapEff /proc/self/status", "--cap-drop=all", "--cap-add=chown").split()[1]
    assert int(effective, 16) == 1


def test_no_new_privileges(podman: Podman) -> None:
    output = podman.sh("grep NoNewPrivs /proc/self/status", "--security-opt=no-new-privileges")
    assert output.split() == ["NoNewPrivs:", "1"]


def test_init(podman: Podman) -> None:
    assert podman.sh("grep -c catatonit /proc/$PPID/cmdline; echo here", "--init").splitlines()[-1] == "here"


def test_what_is_written_is_the_containers(podman: Podman) -> None:
    """What a container changed is there when it is started again, and in nobody else's."""
    podman.must("create", "--name", "kept", IMAGE, "sh", "-c", "echo again >> /kept; cat /kept")
    assert podman.must("start", "--attach", "kept") == "again"
    assert podman.must("start", "--attach", "kept") == "again\nagain"
    assert podman.sh("ls /kept 2>&1 || true").endswith("No such file or directory")
    podman.must("rm", "kept")


def test_a_pid_file_and_a_container_id_file(podman: Podman, tmp_path: Path) -> None:
    files = [f"--pidfile={tmp_path}/pid", f"--cidfile={tmp_path}/id"]
    name = podman.must("run", "-d", *files, "--stop-signal=KILL", IMAGE, "sleep", "60")
    assert (tmp_path / "id").read_text() == name
    os.kill(int((tmp_path / "pid").read_text()), 0)
    podman.must("rm", "-f", name)


def test_without_control_groups(podman: Podman) -> None:
    assert podman.sh("echo here", "--cgroups=disabled") == "here"


def test_an_image_does_not_choose_the_kernel(ours: Podman) -> None:
    """Its annotations become the container's."""
    words = ("--quiet", "--format=oci", "--annotation=pykrun.kernel=/bin/busybox", "--tag=localhost/other:1")
    ours.must("build", *words, "--file=-", "/etc/opt", stdin=b"FROM localhost/app:1\n")
    try:
        result = ours("run", "--rm", "localhost/other:1", "true")
        assert result.returncode == 126
        assert b"annotation pykrun.kernel is not taken" in result.stderr
    finally:
        ours.must("rmi", "localhost/other:1")
