"""Further processes in a container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.oci.runtime.runtime import Console, Runtime
from tests.support.command import wait_until


@pytest.fixture
def running(runtime: Runtime) -> str:
    """A container that runs."""
    process = {"env": ["PATH=/bin", "OF=container"], "user": {"uid": 3, "gid": 4}}
    runtime.create("one", runtime.bundle(script="exec sleep 600", process=process))
    runtime.must("start", "one")
    return "one"


def described(runtime: Runtime, *words: str, **changes: Any) -> Path:
    path = runtime.bundles / "process.json"
    path.write_text(json.dumps({"args": words, "env": ["PATH=/bin"], "cwd": "/", **changes}))
    return path


def test_streams_and_code(each: Runtime) -> None:
    each.create("one", each.bundle(script="exec sleep 600"))
    each.must("start", "one")
    noise = os.urandom(1_000_000)
    command = each.start_command("exec", "one", "sh", "-c", "cat; echo err >&2; exit 9", stdin=-1, stdout=-1, stderr=-1)
    output, errors = command.communicate(noise, timeout=60)
    assert (command.returncode, output == noise, errors) == (9, True, b"err\n")


def test_what_nobody_says_is_the_containers(runtime: Runtime, running: str) -> None:
    assert runtime.must("exec", running, "sh", "-c", "id -u; id -g; echo $OF") == "3\n4\ncontainer\n"
    words = ("--env", "A=b", "--cwd", "/bin", "--user", "5:6", "--additional-gids", "7")
    assert runtime.must("exec", *words, running, "sh", "-c", "id; echo $OF$A; pwd") == (
        "uid=5 gid=6 groups=7\ncontainerb\n/bin\n"
    )


def test_further_groups_and_capabilities(runtime: Runtime) -> None:
    """Beside those that the container has."""
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    user = {"uid": 3, "gid": 4, "additionalGids": [5]}
    process = {"user": user, "capabilities": {name: ["CAP_CHOWN"] for name in sets}}
    runtime.create("one", runtime.bundle(script="exec sleep 600", process=process))
    runtime.must("start", "one")
    words = ("--additional-gids", "6", "--cap", "CAP_KILL", "--cap", "net_raw")
    script = "id; grep CapEff /proc/self/status"
    first, second = runtime.must("exec", *words, "one", "sh", "-c", script).splitlines()
    assert first == "uid=3 gid=4 groups=5,6"
    assert int(second.split()[1], 16) == 1 << 0 | 1 << 5 | 1 << 13
    assert runtime.refused("exec", "--cap", "FLY", "one", "true") == "--cap: 'FLY' is no capability"


def test_a_user_by_number(runtime: Runtime) -> None:
    """What the numbers do not say is the container's: groups, and the group where there is only the user."""
    process = {"user": {"uid": 1000, "gid": 1000, "additionalGids": [44], "umask": 0o27}}
    runtime.create("one", runtime.bundle(script="exec sleep 600", process=process))
    runtime.must("start", "one")
    expected = {
        ("2000",): "uid=2000 gid=1000 groups=44",
        ("2000:3000",): "uid=2000 gid=3000 groups=44",
        ("2000", "--additional-gids", "55"): "uid=2000 gid=1000 groups=44,55",
    }
    for words, said in expected.items():
        assert runtime.must("exec", "--user", *words, "one", "sh", "-c", "id; umask") == f"{said}\n0027\n"


def test_config_json_is_read_once(runtime: Runtime) -> None:
    """What becomes of the bundle later changes nothing."""
    user = {"uid": 3, "gid": 4, "additionalGids": [5]}
    process = {"user": user, "capabilities": {"bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}}
    bundle = runtime.bundle(script="exec sleep 600", process=process)
    runtime.create("one", bundle)
    (bundle / "config.json").write_text(json.dumps({"process": {"user": {"uid": 0, "gid": 0}}}))
    runtime.must("start", "one")
    words = ("exec", "--user", "6", "--cap", "KILL", "one", "sh", "-c", "id; grep CapBnd /proc/self/status")
    first, second = runtime.must(*words).splitlines()
    assert first == "uid=6 gid=4 groups=5"
    assert int(second.split()[1], 16) == 1 << 0 | 1 << 5
    (bundle / "config.json").unlink()
    assert runtime.must("exec", "--additional-gids", "7", "one", "id") == "uid=3 gid=4 groups=5,7\n"


def test_a_file_says_it_all(runtime: Runtime, running: str) -> None:
    process = described(
        runtime,
        "sh",
        "-c",
        "id; echo -$OF-; ulimit -n; umask",
        user={"uid": 7, "gid": 8, "umask": 0o77},
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}],
    )
    assert runtime.must("exec", "--process", process, running) == "uid=7 gid=8\n--\n50\n0077\n"


def test_detached(runtime: Runtime, running: str) -> None:
    """A process stays under that pid; its end is the command's."""
    pid_file, out = runtime.bundles / "pid", runtime.bundles / "out"
    process = described(runtime, "sh", "-c", "trap 'echo term; exit 6' TERM; echo up; while :; do sleep 0.1; done")
    with out.open("wb") as file:
        runtime.must("exec", "--detach", "--pid-file", pid_file, "--process", process, running, stdout=file)
    wait_until(lambda: out.read_bytes() == b"up\n", 30, "the command")
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    assert runtime.reap(pid) == 6
    assert out.read_bytes() == b"up\nterm\n"


def test_without_who_stands_for_it_it_ends(runtime: Runtime, running: str) -> None:
    reading, writing = os.pipe()
    pid_file = runtime.bundles / "pid"
    words = ("exec", "-d", "--pid-file", pid_file, running, "sh", "-c", "echo out; exec sleep 599")
    command = runtime.start_command(*words, stdin=-3, stdout=writing, stderr=writing)
    assert command.wait(60) == 0
    os.close(writing)
    assert os.read(reading, 99) == b"out\n"
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGKILL)
    assert runtime.reap(pid) == -signal.SIGKILL
    wait_until(lambda: "sleep 599" not in runtime.must("ps", running), 20, "its end")
    assert os.read(reading, 99) == b""
    os.close(reading)


def test_the_containers_end(runtime: Runtime, running: str) -> None:
    pid_file = runtime.bundles / "pid"
    runtime.must("exec", "-d", "--pid-file", pid_file, running, "sleep", "600")
    container = runtime.state(running)["pid"]
    runtime.must("kill", running, "KILL")
    assert runtime.reap(container) == -signal.SIGKILL
    assert runtime.reap(int(pid_file.read_text())) == 137


def test_a_terminal(runtime: Runtime, running: str, console: Console) -> None:
    pid_file = runtime.bundles / "pid"
    process = described(
        runtime,
        "sh",
        "-c",
        "tty; stty size; read line; echo got $line; exit 5",
        terminal=True,
        consoleSize={"height": 33, "width": 44},
    )
    words = ("--detach", "--process", process, "--console-socket", console.path, "--pid-file", pid_file)
    command = runtime.start_command("exec", *words, running, stdin=-3, stdout=-3, stderr=-3)
    master = console.accept()
    assert command.wait(60) == 0
    console.read_until(b"/dev/pts/0\r\n33 44\r\n")
    os.write(master, b"hey\r")
    console.read_until(b"got hey\r\n")
    assert runtime.reap(int(pid_file.read_text())) == 5


def test_what_cannot_be_started(runtime: Runtime, running: str) -> None:
    for words in ((), ("--detach",)):
        assert runtime.refused("exec", *words, running, "nothing") == (
            "executable file `nothing` not found in $PATH: No such file or directory"
        )
        assert runtime.refused("exec", *words, running, "/etc") == "cannot execute `/etc`: permission denied"
    assert runtime.refused("exec", running) == "a command is wanted (or --process with a file)"
    assert runtime.refused("exec", "--env", "A", running, "true") == "--env must be NAME=VALUE, not 'A'"
    assert runtime.refused("exec", "--process", "/nowhere", running).startswith("--process '/nowhere': No such file")
    broken = described(runtime, "true", cwd="here")
    assert runtime.refused("exec", "--process", broken, running) == "process: cwd must be absolute, not 'here'"
    terminal = described(runtime, "true", terminal=True)
    assert runtime.refused("exec", "--detach", "--process", terminal, running) == (
        "a terminal and --detach need --console-socket, which gets the terminal"
    )


def test_what_cannot_be_started_at_a_terminal(runtime: Runtime, running: str) -> None:
    master, slave = os.openpty()
    command = runtime.start_command("exec", "-t", running, "nothing", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    assert command.wait(60) == 255
    os.close(master)


def test_many_at_once(runtime: Runtime, running: str) -> None:
    commands = [
        runtime.start_command("exec", running, "sh", "-c", f"cat; exit {number}", stdin=-1, stdout=-1, stderr=-1)
        for number in range(12)
    ]
    for number, command in enumerate(commands):
        output, _ = command.communicate(str(number).encode(), timeout=60)
        assert (command.returncode, output) == (number, str(number).encode())


def test_processes_and_use(runtime: Runtime, running: str) -> None:
    assert "sleep 600" in runtime.must("ps", running)
    assert runtime.must("ps", running, "-o", "comm").splitlines()[0].strip() == "COMMAND"
    event = json.loads(runtime.must("events", "--stats", running))
    assert (event["type"], event["id"]) == ("stats", "one")
    assert event["data"]["cpu"]["usage"]["total"] > 0
    assert event["data"]["memory"]["usage"]["usage"] > 1 << 20
    assert event["data"]["pids"]["current"] >= 2
    process = runtime.start_command("events", "--interval", "100ms", running, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "stats"
    runtime.must("delete", "--force", running)
    process.communicate(timeout=30)
    assert runtime.refused("update", "--memory", "1g", running).startswith("container does not exist")
