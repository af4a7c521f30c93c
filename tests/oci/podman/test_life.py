"""What podman does with containers that run: stop, kill, wait, look."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.command import wait_until
from tests.support.enclave import IMAGE, OURS
from tests.support.podman import Podman, said

TRAP = "trap 'echo got term; exit 5' TERM; trap 'echo got usr1; exit 6' USR1; echo ready; while :; do sleep 0.1; done"


def trapping(podman: Podman, *options: str) -> str:
    """A container that says so when it is asked to end."""
    name = podman.must("run", "-d", *options, IMAGE, "sh", "-c", TRAP)
    wait_until(lambda: "ready" in podman.must("logs", name), 30, "the trap")
    return name


def exit_code(podman: Podman, name: str) -> int:
    state = podman.inspect(name)["State"]
    assert state["Status"] == "exited"
    code: int = state["ExitCode"]
    return code


def test_stop(podman: Podman) -> None:
    name = trapping(podman)
    podman.must("stop", "--time", "20", name)
    assert exit_code(podman, name) == 5
    assert podman.must("logs", name).splitlines() == ["ready", "got term"]
    podman.must("rm", name)


def test_a_stop_signal_of_its_own(podman: Podman) -> None:
    name = trapping(podman, "--stop-signal=USR1")
    podman.must("stop", "--time", "20", name)
    assert exit_code(podman, name) == 6
    podman.must("rm", name)


def test_stop_of_one_that_does_not_listen(podman: Podman) -> None:
    name = podman.must("run", "-d", IMAGE, "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    podman.must("stop", "--time", "1", name)
    assert exit_code(podman, name) == 128 + signal.SIGKILL
    podman.must("rm", name)


@pytest.mark.parametrize(("words", "code"), [([], 137), (["-s", "USR1"], 6), (["-s", "15"], 5)])
def test_kill(podman: Podman, words: list[str], code: int) -> None:
    name = trapping(podman)
    podman.must("kill", *words, name)
    assert podman.must("wait", name) == str(code)
    assert exit_code(podman, name) == code
    assert podman("kill", name).returncode != 0
    podman.must("rm", name)


def test_removal_of_one_that_runs(podman: Podman) -> None:
    name = trapping(podman)
    refused = podman("rm", name)
    assert refused.returncode == 2, said(refused)
    pid = podman.pid(name)
    podman.must("rm", "-f", "-t", "0", name)
    assert not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_what_podman_shows(podman: Podman) -> None:
    name = trapping(podman, "--name=shown")
    shown = podman.inspect("shown")
    assert shown["State"]["Status"] == "running"
    assert os.path.basename(shown["OCIRuntime"]) == podman.runtime
    os.kill(shown["State"]["Pid"], 0)
    [listed] = podman.containers()
    assert (listed["Names"], listed["State"], listed["Pid"]) == (["shown"], "running", shown["State"]["Pid"])
    stats = json.loads(podman.must("stats", "--no-stream", "--format", "json", "shown"))
    assert [one["name"] for one in stats] == ["shown"]
    assert stats[0]["pids"] not in ("0", "--")
    podman.must("rm", "-f", "-t", "0", name)


def test_top(podman: Podman) -> None:
    """One process for a VM; the guest's own are asked for in the guest."""
    name = podman.must("run", "-d", IMAGE, "sleep", "4711")
    assert [line.split()[-2:] for line in podman.must("top", name).splitlines()[1:]] == [["sleep", "4711"]]
    assert "4711" in podman.must("exec", name, "ps")
    podman.must("rm", "-f", "-t", "0", name)


def test_pause(podman: Podman) -> None:
    name = podman.must("run", "-d", IMAGE, "sh", "-c", "while :; do echo tick >> /ticks; sleep 0.05; done")
    merged = podman.inspect(name)["GraphDriver"]["Data"].get("MergedDir")
    if merged is None:
        pytest.skip("podman's storage is no overlay here")
    ticks = podman.store.enclave.inside(f"{merged}/ticks")
    wait_until(ticks.exists, 30)
    podman.must("pause", name)
    assert podman.inspect(name)["State"]["Status"] == "paused"
    size = ticks.stat().st_size
    time.sleep(0.7)
    assert ticks.stat().st_size == size
    podman.must("unpause", name)
    assert podman.inspect(name)["State"]["Status"] == "running"
    wait_until(lambda: ticks.stat().st_size > size, 10)
    assert podman.must("exec", name, "echo", "alive") == "alive"
    podman.must("rm", "-f", "-t", "0", name)


def test_restart(podman: Podman) -> None:
    name = trapping(podman)
    before = podman.pid(name)
    podman.must("restart", "--time", "10", name)
    assert podman.pid(name) != before
    wait_until(lambda: podman.must("logs", name).count("ready") == 2, 30)
    podman.must("rm", "-f", "-t", "0", name)


def test_a_restart_policy(podman: Podman) -> None:
    name = podman.must("run", "-d", "--restart=on-failure:2", IMAGE, "sh", "-c", "echo again; exit 3")
    wait_until(lambda: podman.must("logs", name).count("again") == 3, 60)
    wait_until(lambda: podman.inspect(name)["State"]["Status"] == "exited", 30)
    assert exit_code(podman, name) == 3
    podman.must("rm", "-f", name)


def test_created_and_never_started(podman: Podman) -> None:
    podman.must("create", "--name", "never", IMAGE, "true")
    podman.must("init", "never")
    assert podman.inspect("never")["State"]["Status"] == "initialized"
    podman.must("rm", "-f", "never")
    podman.must("create", "--name", "later", IMAGE, "echo", "now")
    podman.must("init", "later")
    assert podman.must("start", "--attach", "later") == "now"
    podman.must("rm", "later")


def test_two_at_once(podman: Podman) -> None:
    names = [trapping(podman, f"--name={name}", f"--hostname={name}") for name in ("left", "right")]
    assert podman.must("exec", "left", "hostname") == "left"
    assert podman.must("exec", "right", "hostname") == "right"
    podman.must("kill", "left")
    podman.must("wait", "left")
    assert [one["Names"] for one in podman.containers()] == [["right"]]
    assert podman.must("exec", "right", "echo", "here") == "here"
    podman.must("rm", "-f", "-t", "0", *names)


def test_logs_of_both_streams(podman: Podman) -> None:
    name = podman.must("run", "-d", IMAGE, "sh", "-c", "seq 1000; echo error >&2")
    podman.must("wait", name)
    result = podman("logs", name)
    assert result.stdout.decode().split() == [str(n) for n in range(1, 1001)]
    assert result.stderr == b"error\n"
    podman.must("rm", name)


def test_events(podman: Podman) -> None:
    name = podman.must("run", "-d", IMAGE, "true")
    podman.must("wait", name)
    wait_until(lambda: podman.inspect(name)["State"]["Status"] == "exited", 20)
    shown = podman.must("events", "--stream=false", "--format={{.Status}}", "--filter", f"container={name}")
    assert {"create", "init", "start", "died"} <= set(shown.splitlines())
    podman.must("rm", name)


def test_a_pod(podman: Podman) -> None:
    """Containers that share a network namespace with an infra container need an image for that one: not here."""
    podman.must("pod", "create", "--infra=false", "--share=", "group")
    try:
        assert podman.must("run", "--rm", "--pod", "group", IMAGE, "echo", "in") == "in"
    finally:
        podman.must("pod", "rm", "-f", "group")


@pytest.mark.parametrize("words", [["checkpoint"], ["update", "--cpus=1"]])
def test_what_there_is_not(ours: Podman, words: list[str]) -> None:
    name = trapping(ours)
    result = ours(*words, name)
    if words[0] == "checkpoint":
        assert result.returncode != 0
        assert OURS in result.stderr.decode() or "checkpoint" in result.stderr.decode()
    assert ours.inspect(name)["State"]["Status"] == "running"
    ours.must("rm", "-f", "-t", "0", name)
