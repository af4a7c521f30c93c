"""What `ctr` can do with a container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.containerd.conftest import Run
from tests.support.command import ROOT, wait_until
from tests.support.containerd import Containerd
from tests.support.enclave import IMAGE, tree
from tests.support.podman import host_kernel, said
from tests.support.processes import children

NOISE = bytes(range(256)) * 2000


def is_ours(run: Run) -> bool:
    return "runc" not in run()


def sleeping(containerd: Containerd, run: Run, name: str = "one", *options: str) -> int:
    """A container that runs; its pid."""
    containerd.must(*run("--detach", *options), IMAGE, name, "sleep", "300")
    pid, state = containerd.tasks()[name]
    assert state == "RUNNING"
    return pid


def end(containerd: Containerd, name: str = "one") -> None:
    containerd.must("task", "kill", "--signal", "SIGKILL", name)
    wait_until(lambda: containerd.tasks()[name][1] == "STOPPED", 20)
    containerd("task", "delete", name)  # its status is the container's
    containerd.must("container", "delete", name)


def test_run(containerd: Containerd, run: Run) -> None:
    kernel = containerd.must(*run("--rm"), IMAGE, "one", "uname", "-r")
    assert (kernel == host_kernel()) is not is_ours(run)


@pytest.mark.parametrize("code", [0, 7, 255])
def test_streams_and_exit_codes(containerd: Containerd, run: Run, code: int) -> None:
    script = f"cat; echo to error >&2; exit {code}"
    result = containerd(*run("--rm"), IMAGE, "one", "sh", "-c", script, stdin=NOISE)
    assert result.stdout == NOISE
    assert b"to error\n" in result.stderr
    assert result.returncode == code


def test_a_command_that_is_not_there(containerd: Containerd, run: Run) -> None:
    result = containerd(*run("--rm"), IMAGE, "one", "/nothing/here")
    assert result.returncode != 0
    assert b"/nothing/here" in result.stderr, said(result)
    assert not containerd.must("container", "list", "--quiet")


def test_what_a_command_gets(containerd: Containerd, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("shared\n")
    script = """echo $ONE; pwd; cat /in/file; touch /in/new || echo refused
        grep MemTotal /proc/meminfo"""
    options = ["--env", "ONE=1 with space", "--cwd", "/home", "--memory-limit", str(300 << 20)]
    mount = f"type=bind,src={tmp_path},dst=/in,options=rbind:ro"
    output = containerd.must(*run("--rm", *options, "--mount", mount), IMAGE, "one", "sh", "-c", script)
    *first, memory = output.splitlines()
    assert first == ["1 with space", "/home", "shared", "refused"]
    if is_ours(run):
        assert int(memory.split()[1]) < 300 << 10


def test_a_read_only_root(containerd: Containerd, run: Run) -> None:
    output = containerd.must(*run("--rm", "--read-only"), IMAGE, "one", "sh", "-c", "touch /file || echo refused")
    assert output == "refused"


def test_a_terminal(containerd: Containerd, run: Run) -> None:
    words = containerd.words(*run("--rm", "--tty"), IMAGE, "one", "sh", "-c", "tty; exit 3")
    command = containerd.enclave.command(words)
    result = subprocess.run(
        [
            "script",
            "--quiet",
            "--return",
            "--command",
            " ".join(map(str, [*command[:-1], "'tty; exit 3'"])),
            "/dev/null",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=containerd.enclave.environment(),
        timeout=60,
    )
    assert b"/dev/" in result.stdout
    assert result.returncode == 3


def test_further_commands(containerd: Containerd, run: Run) -> None:
    sleeping(containerd, run)
    execute = ["task", "exec", "--exec-id"]
    kernel = containerd.must(*execute, "first", "one", "uname", "-r")
    assert (kernel == host_kernel()) is not is_ours(run)
    result = containerd(*execute, "second", "one", "sh", "-c", "cat; echo to error >&2; exit 5", stdin=NOISE)
    assert result.stdout == NOISE
    assert b"to error\n" in result.stderr
    assert result.returncode == 5
    script = "pwd; id -u"
    assert containerd.must(*execute, "third", "--cwd", "/tmp", "--user", "7", "one", "sh", "-c", script) == "/tmp\n7"
    assert containerd(*execute, "fourth", "one", "/nothing/here").returncode != 0
    end(containerd)


def test_processes_metrics_pause(containerd: Containerd, run: Run) -> None:
    pid = sleeping(containerd, run)
    assert str(pid) in containerd.must("task", "ps", "one")
    metrics = containerd.must("task", "metrics", "one")
    assert "pids.current" in metrics
    assert "memory.usage" in metrics
    containerd.must("task", "pause", "one")
    assert containerd.tasks()["one"][1] == "PAUSED"
    containerd.must("task", "resume", "one")
    assert containerd.tasks()["one"][1] == "RUNNING"
    assert containerd.must("task", "exec", "--exec-id", "after", "one", "echo", "alive") == "alive"
    end(containerd)


def test_kill(containerd: Containerd, run: Run) -> None:
    script = "trap 'echo got it; exit 6' TERM; echo ready; while :; do sleep 0.1; done"
    process = containerd.start(*run("--rm"), IMAGE, "one", "sh", "-c", script, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    containerd.must("task", "kill", "--signal", "SIGTERM", "one")
    assert process.communicate(timeout=30)[0] == b"got it\n"
    assert process.returncode == 6


def test_events(containerd: Containerd, run: Run) -> None:
    process = containerd.start("events", stdout=subprocess.PIPE)
    time.sleep(0.3)
    containerd(*run("--rm"), IMAGE, "one", "sh", "-c", "exit 4")
    time.sleep(0.3)
    process.terminate()
    output = process.communicate(timeout=10)[0].decode()
    topics = [word for line in output.splitlines() for word in line.split() if word.startswith("/tasks/")]
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert '"exit_status":4' in output


def test_two_at_once(containerd: Containerd, run: Run) -> None:
    pids = {sleeping(containerd, run, "one"), sleeping(containerd, run, "two")}
    assert len(pids) == 2
    end(containerd, "one")
    assert list(containerd.tasks()) == ["two"]
    assert containerd.must("task", "exec", "--exec-id", "after", "two", "echo", "alive") == "alive"
    end(containerd, "two")


def test_a_description_of_ones_own(containerd: Containerd, run: Run, tmp_path: Path) -> None:
    """--config: a bundle's config.json, with a root of the host."""
    capabilities = ["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"]
    description = {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["sh", "-c", "id -u; id -G; umask; pwd; echo $ONE; hostname; grep CapEff /proc/self/status"],
            "cwd": "/home",
            "env": ["PATH=/bin", "ONE=1"],
            "user": {"uid": 1000, "gid": 1001, "additionalGids": [7], "umask": 0o27},
            "capabilities": dict.fromkeys(("bounding", "permitted", "effective"), capabilities),
        },
        "root": {"path": str(tree(tmp_path / "tree")), "readonly": True},
        "hostname": "described",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": f"/{containerd.enclave.cgroup}/described",
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(description))
    output = containerd.must(*run("--rm", "--config", f"{tmp_path}/config.json"), "one").splitlines()
    assert output[0] == "1000"
    assert output[1].split() == ["1001", "7"]
    assert output[2:6] == ["0027", "/home", "1", "described"]
    assert int(output[6].split()[1], 16) == 0, "another user keeps no capability that is not ambient"


def test_a_network_of_its_own(containerd: Containerd, run: Run) -> None:
    links = containerd.must(*run("--rm"), IMAGE, "one", "ls", "/sys/class/net").split()
    assert "eth0" not in links


def test_the_end_of_the_supervisor(containerd: Containerd, run: Run) -> None:
    pid = sleeping(containerd, run)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: containerd.tasks()["one"][1] == "STOPPED", 20)
    containerd("task", "delete", "one")
    containerd.must("container", "delete", "one")


def test_the_end_of_the_shim(containerd: Containerd, run: Run) -> None:
    """Containerd then asks the runtime to delete with --force."""
    sleeping(containerd, run)
    shims = [
        pid
        for pid in children()
        if b"containerd-shim" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and containerd.enclave.cgroup.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(shims) == 1
    os.kill(shims[0], signal.SIGKILL)
    os.waitpid(shims[0], 0)
    wait_until(lambda: not containerd.tasks(), 20)
    containerd.must("container", "delete", "one")


@pytest.fixture
def pod(containerd: Containerd) -> Iterator[str]:
    """A network namespace as a cluster's plugins make it for a pod, and a service outside at 10.99.0.1, port 8098."""
    enclave = containerd.enclave
    for words in (
        "netns add pod",
        "link add outside type veth peer name eth0 netns pod",
        "addr add 10.99.0.1/24 dev outside",
        "link set outside up",
        "-n pod addr add 10.99.0.2/24 dev eth0",
        "-n pod link set eth0 up",
        "-n pod link set lo up",
        "-n pod route add default via 10.99.0.1",
    ):
        result = enclave.run(["ip", *words.split()])
        assert result.returncode == 0, said(result)
    serve = "while :; do echo from outside | busybox nc -l -p 8098; done"
    server = enclave.start(["setsid", "sh", "-c", serve])
    yield "network:/run/netns/pod"
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    enclave.run(["ip", "netns", "del", "pod"])
    enclave.run(["ip", "link", "del", "outside"])


def test_a_pod(containerd: Containerd, run: Run, pod: str) -> None:
    """What a kubelet has containerd do: a sandbox that holds the network namespace, and a container in it."""
    kind = "io.kubernetes.cri.container-type"
    pausing = sleeping(containerd, run, "pause", "--with-ns", pod, "--annotation", f"{kind}=sandbox")
    script = "ip addr show dev eth0 | grep -c 10.99.0.2/24; nc -w 5 10.99.0.1 8098"
    words = run("--rm", "--with-ns", pod, "--annotation", f"{kind}=container")
    assert containerd.must(*words, IMAGE, "one", "sh", "-c", script) == "1\nfrom outside"
    os.kill(pausing, 0)
    end(containerd, "pause")


def test_the_configuration_of_the_docs() -> None:
    """Containerd's CRI plugin takes it."""
    stanzas = (ROOT / "docs/kubernetes.md").read_text().split("version = 2\n")[1].split("```")[0]
    daemon = Containerd(stanzas)
    try:
        [plugin] = [line.split() for line in daemon.must("plugins", "list").splitlines() if " cri " in line]
        assert plugin[-1] == "ok", daemon.log.read_text()
    finally:
        daemon.close()
