"""The specification's state machine: what follows what, and the exact error of what does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time

from pykrun.oci.main import VERBS
from tests.oci.runtime.runtime import KILL, Runtime
from tests.support.command import wait_until

SLEEP = "exec sleep 600"


def test_a_life(each: Runtime) -> None:
    bundle = each.bundle(script="exit 7", annotations={"a": "b"})
    pid_file = each.bundles / "pid"
    each.create("one", bundle, "--pid-file", pid_file)
    pid = int(pid_file.read_text())
    state = each.state("one")
    assert state == {
        "ociVersion": "1.0.2",
        "id": "one",
        "pid": pid,
        "status": "created",
        "bundle": str(bundle),
        "rootfs": str(bundle / "rootfs"),
        "created": state["created"],
        "owner": "",
        "annotations": {"a": "b"},
    }
    each.must("start", "one")
    assert each.reap(pid) == 7
    state = each.state("one")
    assert (state["status"], state["pid"]) == ("stopped", 0)
    each.must("delete", "one")
    assert "does not exist" in each.refused("state", "one")


def test_wrong_orders(runtime: Runtime) -> None:
    for verb in ("start", "state", "kill", "delete", "pause", "resume", "ps"):
        assert runtime.refused(verb, "none").startswith("container does not exist")
    bundle = runtime.bundle(script=SLEEP)
    runtime.create("one", bundle)
    assert runtime.refused("create", "--bundle", bundle, "one") == "container with given ID already exists: one"
    assert (
        runtime.refused("exec", "one", "true") == "cannot exec in a container that is not running (it was not started)"
    )
    assert runtime.refused("pause", "one") == "container not running (it is created)"
    runtime.must("start", "one")
    assert runtime.refused("start", "one") == "cannot start an already running container"
    assert runtime.refused("delete", "one") == "cannot delete container one that is not stopped: running"
    assert runtime.refused("resume", "one") == "container not paused (it is running)"
    pid = runtime.state("one")["pid"]
    runtime.must("kill", "one", "KILL")
    assert runtime.reap(pid) == KILL
    assert runtime.refused("start", "one") == "cannot start a container that has stopped"
    assert runtime.refused("kill", "one") == "container not running (it is stopped)"
    runtime.must("kill", "--all", "one", "KILL")
    assert runtime.refused("exec", "one", "true") == "cannot exec in a container that is not running (it is stopped)"
    assert runtime.refused("create", "--bundle", bundle, "one") == "container with given ID already exists: one"
    runtime.must("delete", "one")
    runtime.must("delete", "--force", "one")


def test_of_two_that_create_one_wins(runtime: Runtime) -> None:
    bundle = runtime.bundle(script=SLEEP)
    runtime.names.append("one")
    results: list[int] = []

    def create() -> None:
        command = runtime.start_command("create", "--bundle", bundle, "one", stdin=-3, stdout=-3, stderr=-3)
        results.append(command.wait(60))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 1, 1]
    assert runtime.status("one") == "created"


def test_of_two_that_start_one_wins(runtime: Runtime) -> None:
    runtime.create("one", runtime.bundle(script=SLEEP))
    starts = [runtime.start_command("start", "one", stderr=-3) for _ in range(3)]
    assert sorted(one.wait(60) for one in starts) == [0, 1, 1]
    assert runtime.status("one") == "running"


def test_names(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    for name in ("a/b", "..", "", "a b", "ü", "x" * 256):
        assert runtime.refused("create", "--bundle", bundle, name).startswith("invalid container ID format")
    long = "x" * 200
    runtime.create(long, bundle)
    runtime.must("start", long)


def test_signals(runtime: Runtime) -> None:
    bundle = runtime.bundle(script='trap "exit 3" TERM; trap "echo usr" USR1; echo up; while :; do sleep 0.1; done')
    out = runtime.bundles / "out"
    with out.open("wb") as file:
        runtime.create("one", bundle, stdout=file)
    pid = runtime.state("one")["pid"]
    runtime.must("start", "one")
    wait_until(lambda: out.read_bytes() == b"up\n", 30, "the program")
    runtime.must("kill", "one", "SIGUSR1")
    wait_until(lambda: out.read_bytes() == b"up\nusr\n", 30, "the signal")
    assert runtime.refused("kill", "one", "FOO").startswith("unknown signal 'FOO'")
    assert runtime.refused("kill", "one", "99").startswith("unknown signal '99'")
    runtime.must("kill", "one")
    assert runtime.reap(pid) == 3


def test_a_signal_that_ends_it(runtime: Runtime) -> None:
    runtime.create("one", runtime.bundle(process={"args": ["sleep", "600"]}))
    pid = runtime.state("one")["pid"]
    runtime.must("start", "one")
    runtime.must("kill", "one", "12")
    assert runtime.reap(pid) == 128 + signal.SIGUSR2


def test_signals_before_the_start(runtime: Runtime) -> None:
    """As to a process that has set up nothing."""
    bundle = runtime.bundle(script=SLEEP)
    runtime.create("one", bundle)
    pid = runtime.state("one")["pid"]
    runtime.must("kill", "one", "WINCH")
    assert runtime.status("one") == "created"
    runtime.must("kill", "one", "TERM")
    assert runtime.reap(pid) == 128 + signal.SIGTERM
    runtime.must("delete", "one")
    runtime.create("one", bundle)
    runtime.must("delete", "one")  # as runc has it


def test_lists(runtime: Runtime) -> None:
    assert runtime.must("list", "--format", "json") == "[]\n"
    assert runtime.must("list", "-q") == ""
    runtime.create("one", runtime.bundle(script=SLEEP))
    runtime.create("two", runtime.bundle("two", script="true"))
    assert runtime.must("list", "-q").split() == ["one", "two"]
    listed = json.loads(runtime.must("list", "--format=json"))
    assert [(one["id"], one["status"]) for one in listed] == [("one", "created"), ("two", "created")]
    assert runtime.must("list").splitlines()[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED"]
    assert json.loads(runtime.must("ps", "--format", "json", "one")) == [runtime.state("one")["pid"]]
    assert runtime.refused("ps", "one").endswith("that is not running (it is created)")


def test_pause(runtime: Runtime) -> None:
    out = runtime.bundles / "out"
    with out.open("wb") as file:
        runtime.create("one", runtime.bundle(script="while :; do echo x; sleep 0.05; done"), stdout=file)
    runtime.must("start", "one")
    runtime.must("pause", "one")
    assert runtime.status("one") == "paused"
    assert runtime.refused("exec", "one", "true").startswith("cannot exec in a paused container")
    assert runtime.refused("ps", "one").endswith("that is not running (it is paused)")
    time.sleep(0.2)
    size = out.stat().st_size
    time.sleep(0.5)
    assert out.stat().st_size == size
    runtime.must("resume", "one")
    assert runtime.status("one") == "running"
    wait_until(lambda: out.stat().st_size > size, 30, "more output")
    runtime.must("pause", "one")
    pid = runtime.state("one")["pid"]
    runtime.must("kill", "one", "9")
    assert runtime.reap(pid) == KILL


def test_what_it_cannot(runtime: Runtime) -> None:
    why = "is not supported: the memory of a VM cannot be saved"
    assert runtime.refused("checkpoint", "one") == f"checkpoint {why}"
    assert runtime.refused("restore", "one") == f"restore {why}"
    assert runtime.refused("checkpoint", "--image-path", "/there", "one") == f"checkpoint {why}"
    assert runtime.refused("frobnicate") == "there is no command 'frobnicate' (see `pykrun-oci --help`)"
    assert runtime.refused("create", "--frob", "x") == "there is no option --frob (see `pykrun-oci create --help`)"
    assert runtime.refused("start") == "one container ID is wanted, not 0"


def test_words(runtime: Runtime) -> None:
    version, spec = runtime.must("--version").splitlines()
    assert version.startswith("pykrun-oci version ")
    assert spec == "spec: 1.0.2"
    assert "commands:" in runtime.must("--help")
    for verb in set(VERBS) - {"checkpoint", "restore"}:
        text = runtime.must(verb, "--help", stdout=subprocess.PIPE)
        assert f"usage: pykrun-oci {verb}" in text
        assert f"\nexamples:\n  pykrun-oci {verb}" in text
    features = json.loads(runtime.must("features"))
    assert (features["ociVersionMin"], features["ociVersionMax"]) == ("1.0.0", "1.0.2")


def test_errors_in_the_log(runtime: Runtime) -> None:
    log = runtime.bundles / "log"
    runtime("--log", log, "--log-format", "json", "state", "none")
    entry = json.loads(log.read_text())
    assert entry["level"] == "error"
    assert entry["msg"].startswith("container does not exist")
    assert entry["time"].endswith("Z")
    log.unlink()
    runtime("--log", log, "state", "none")
    assert 'level=error msg="container does not exist' in log.read_text()


def test_a_bundle_by_our_own_spec(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    (bundle / "config.json").unlink()
    runtime.must("spec", "--bundle", bundle)
    assert runtime.refused("spec", "--bundle", bundle).endswith("config.json is there already (remove it first)")
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(args=["cat", "/proc/mounts"])
    (bundle / "config.json").write_text(json.dumps(config))
    runtime.names.append("one")
    result = runtime("run", "--bundle", bundle, "one")
    assert result.returncode == 0
    assert b"devtmpfs /dev " in result.stdout


def test_without_an_environment(runtime: Runtime) -> None:
    """Podman calls most verbs with no variables at all."""
    runtime.create("one", runtime.bundle(script=SLEEP))
    for verb in (["start"], ["state"], ["kill"], ["delete", "--force"]):
        subprocess.run(runtime.command(*verb, "one"), env={"XDG_RUNTIME_DIR": ""}, check=True, timeout=60, stdout=-3)
    assert not (runtime.root / "one").exists()


def test_closed_streams(runtime: Runtime) -> None:
    """None of our files comes to lie where the container's streams would be."""
    shell = ["sh", "-c", 'exec "$@" <&- >&-', "sh"]
    runtime.names.append("one")
    bundle = runtime.bundle(script="cat; echo out; exec sleep 600")
    command = [*shell, *runtime.command("create", "--bundle", bundle, "one")]
    subprocess.run(command, env=runtime.environment(), check=True, timeout=60)
    pid = runtime.state("one")["pid"]
    assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1)] == ["/dev/null"] * 2
    runtime.must("start", "one")
    command = [*shell, *runtime.command("exec", "one", "sh", "-c", "cat; echo out >&2; exit 3")]
    done = subprocess.run(command, env=runtime.environment(), stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (3, b"out\n")
    assert (runtime.root / "one" / "lock").read_text() == ""
