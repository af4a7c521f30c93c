"""What is around a container on the host: cgroups, hooks, a network namespace."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.net.packet import complete_checksum
from pykrun.oci.bundle import Limits, read_bundle
from pykrun.oci.cgroup import OVERHEAD, Tree, apply
from tests.oci.runtime.runtime import Runtime
from tests.support.command import wait_until

GROUP = f"pykrun-test-{os.getpid()}"


def groups(path: str) -> list[Path]:
    """The folders of that cgroup in each tree."""
    top = Path("/sys/fs/cgroup")
    return [*top.glob(f"*/{path}"), *top.glob(path)]


@pytest.fixture
def group() -> Iterator[str]:
    """A cgroup that can be made; afterwards it is gone."""
    try:
        with open("/proc/self/mountinfo") as file:
            trees = [line.split()[4] for line in file if " - cgroup" in line]
        made = [Path(tree) / GROUP for tree in trees]
        made[0].mkdir()
        made[0].rmdir()
    except (OSError, IndexError) as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    yield f"/{GROUP}/one"
    left = groups(GROUP)
    for folder in left:
        for inner in folder.glob("*/"):
            inner.rmdir()
        folder.rmdir()
    assert not left


@pytest.mark.parametrize("systemd", [False, True])
def test_cgroups(group: str, runtime: Runtime, systemd: bool) -> None:
    name = f"{GROUP}.slice:run:one" if systemd else group
    resources = {"pids": {"limit": 500}, "cpu": {"shares": 512}, "memory": {"limit": 300 << 20}}
    bundle = runtime.bundle(script="exec sleep 600", linux={"cgroupsPath": name, "resources": resources})
    runtime.names.append("one")
    runtime.must(*(["--systemd-cgroup"] if systemd else []), "create", "--bundle", bundle, "one", stdout=-3)
    runtime.must("start", "one")
    pid = runtime.state("one")["pid"]
    path = (
        "/".join(f"{'-'.join(GROUP.split('-')[: n + 1])}.slice" for n in range(3)) + "/run-one.scope"
        if systemd
        else group
    )
    with open(f"/proc/{pid}/cgroup") as file:
        assert any(line.rstrip().endswith(path) for line in file)
    folders = groups(path.lstrip("/"))
    assert folders
    limited = [folder / "pids.max" for folder in folders if (folder / "pids.max").exists()]
    assert all(1 << 15 > int(one.read_text()) >= 500 for one in limited if "unified" not in str(one))
    for folder in folders:
        processes = (folder / "cgroup.procs").read_text().split()
        assert str(pid) in processes
        assert len(processes) > 1  # its engine and servers
    event = json.loads(runtime.must("events", "--stats", "one"))
    assert event["data"]["pids"]["current"] > 1
    runtime.must("delete", "--force", "one")
    assert not groups(path.lstrip("/"))


def test_limits_are_changed(group: str, runtime: Runtime) -> None:
    runtime.create("one", runtime.bundle(script="exec sleep 600", linux={"cgroupsPath": group}))
    runtime.must("start", "one")
    folders = groups(group.lstrip("/"))
    shares = next((one / "cpu.shares" for one in folders if (one / "cpu.shares").exists()), None)
    if shares is None:
        pytest.skip("no cpu controller of version 1")
    runtime.must("update", "--cpu-share", "256", "one")
    assert shares.read_text() == "256\n"
    resources = runtime.bundles / "resources"
    resources.write_text(json.dumps({"cpu": {"shares": 128}}))
    runtime.must("update", "--resources", resources, "one")
    assert shares.read_text() == "128\n"
    assert "must be a number" in runtime.refused("update", "--memory", "much", "one")


def test_memory_and_swap_are_raised_and_lowered(group: str, runtime: Runtime) -> None:
    """Together: the kernel of version 1 wants the larger one of the two written first."""
    resources = {"memory": {"limit": 200 << 20, "swap": 200 << 20}}
    linux = {"cgroupsPath": group, "resources": resources}
    runtime.create("one", runtime.bundle(script="exec sleep 600", linux=linux))
    names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    folder = next((one for one in groups(group.lstrip("/")) if (one / names[1]).exists()), None)
    if folder is None:
        pytest.skip("no memory controller of version 1 with swap")
    for memory, swap in ((400, 500), (300, 300), (600, 600)):
        runtime.must("update", "--memory", f"{memory}m", "--memory-swap", f"{swap}m", "one")
        assert [int((folder / name).read_text()) - OVERHEAD >> 20 for name in names] == [memory, swap]


def test_a_period_or_a_quota_alone(tmp_path: Path) -> None:
    """With version 2 both are in one file: the other one stays. The kernel takes a quota alone as that."""
    tree, file = Tree(str(tmp_path), ("v2",)), tmp_path / "cpu.max"
    for before, limits, written in (
        ("20000 100000\n", Limits(cpu_period=50_000), "20000 50000"),
        ("max 100000\n", Limits(cpu_period=50_000), "max 50000"),
        ("20000 50000\n", Limits(cpu_quota=10_000), "10000"),
        ("20000 50000\n", Limits(cpu_quota=-1), "max"),
        ("20000 50000\n", Limits(cpu_quota=10_000, cpu_period=40_000), "10000 40000"),
    ):
        file.write_text(before)
        assert apply(str(tmp_path), tree, limits) == {"cpu"}
        assert file.read_text() == written


def test_nothing_is_left_of_a_failed_one(group: str, runtime: Runtime) -> None:
    bundle = runtime.bundle(linux={"cgroupsPath": group}, process={"args": ["nothing"]})
    runtime.refused("create", "--bundle", bundle, "one")
    assert not groups(group.lstrip("/"))


def test_without_a_cgroup(runtime: Runtime) -> None:
    runtime.create("one", runtime.bundle(script="exec sleep 600"))
    runtime.must("start", "one")
    assert runtime.refused("update", "--memory", "1g", "one").startswith("cannot update: the container has no cgroup")
    assert json.loads(runtime.must("events", "--stats", "one"))["data"]["memory"]["usage"]["usage"] > 1 << 20


def hook(runtime: Runtime, name: str, script: str, **more: object) -> dict[str, object]:
    path = runtime.bundles / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"path": str(path), "args": [name, "word"], "env": [f"OUT={runtime.bundles}/said"], **more}


def test_hooks(runtime: Runtime) -> None:
    stages = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    note = 'echo "$1 {} $(tr -d \'\\n\' | grep -o \'"status": *"[a-z]*"\')" >> "$OUT"'
    hooks = {stage: [hook(runtime, stage, note.format(stage))] for stage in stages}
    runtime.create("one", runtime.bundle(script="exec sleep 600", hooks=hooks))
    said = runtime.bundles / "said"
    assert [line.split()[1] for line in said.read_text().splitlines()] == list(stages[:3])
    assert '"creating"' in said.read_text()
    runtime.must("start", "one")
    assert said.read_text().splitlines()[3].startswith('word poststart "status":"running"')
    runtime.must("delete", "--force", "one")
    assert said.read_text().splitlines()[4].startswith('word poststop "status":"stopped"')


def test_nothing_is_left_of_one_that_cannot_start(group: str, runtime: Runtime) -> None:
    """The program is there, and what it is to be interpreted by is not: that only the guest finds out."""
    hooks = {"poststop": [hook(runtime, "last", 'echo last >> "$OUT"')]}
    bundle = runtime.bundle(linux={"cgroupsPath": group}, hooks=hooks, process={"args": ["/bin/bad"]})
    bad = bundle / "rootfs" / "bin" / "bad"
    bad.write_text("#!/nowhere\n")
    bad.chmod(0o755)
    runtime.names.append("one")
    assert "/bin/bad" in runtime.refused("run", "--bundle", bundle, "one")
    assert not groups(group.lstrip("/"))
    assert (runtime.bundles / "said").read_text() == "last\n"
    assert not (runtime.root / "one").exists()


@pytest.mark.parametrize("lost", ["config.json", "rootfs", "."])
def test_a_late_hook_of_a_bundle_that_is_gone(runtime: Runtime, lost: str) -> None:
    bundle = runtime.bundle(hooks={"poststop": [hook(runtime, "last", 'echo "$0 $1" >> "$OUT"')]})
    runtime.create("one", bundle)
    (bundle / lost).rename(runtime.bundles / "away")
    if lost == "config.json":
        (bundle / lost).write_text("{}")
    runtime.must("delete", "--force", "one")
    assert (runtime.bundles / "said").read_text() == f"{runtime.bundles}/last word\n"


def test_a_late_hook_that_fails(runtime: Runtime) -> None:
    """A warning, with our name once: who has a log of objects puts it there."""
    hooks = {"poststop": [hook(runtime, "bad", "echo why >&2; exit 3")]}
    said = f"error running poststop hook #0: {runtime.bundles}/bad: exit status 3: why"
    log = runtime.bundles / "log"
    for words, start in (((), "pykrun-oci: "), (("--log", log, "--log-format", "json"), "")):
        runtime.create("one", runtime.bundle(hooks=hooks))
        result = runtime(*words, "delete", "--force", "one")
        assert (result.returncode, result.stderr.decode()) == (0, f"{start}warning: {said}\n")
    entry = json.loads(log.read_text())
    assert (entry["level"], entry["msg"]) == ("warning", said)


def test_hooks_that_fail(runtime: Runtime) -> None:
    bundle = runtime.bundle(hooks={"createRuntime": [hook(runtime, "bad", "echo why >&2; exit 3")]})
    said = runtime.refused("create", "--bundle", bundle, "one")
    assert said == f"error running createRuntime hook #0: {runtime.bundles}/bad: exit status 3: why"
    bundle = runtime.bundle(hooks={"createRuntime": [{"path": "/nowhere"}]})
    said = runtime.refused("create", "--bundle", bundle, "one")
    assert said == "error running createRuntime hook #0: /nowhere: No such file or directory"
    bundle = runtime.bundle(hooks={"prestart": [hook(runtime, "slow", "sleep 60", timeout=1)]})
    assert runtime.refused("create", "--bundle", bundle, "one").endswith("slow: it did not end within 1 seconds")
    assert not list(runtime.root.iterdir())


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace as an engine makes it: an interface with an address, and the way to the host."""
    name, host = f"pkt{os.getpid()}", f"pk{os.getpid()}"
    run = subprocess.run
    run(["ip", "netns", "add", name], check=True)
    commands = f"""ip link add {host} type veth peer name eth0 netns {name}
        ip addr add 10.231.77.1/24 dev {host}
        ip link set {host} up
        ip -n {name} addr add 10.231.77.5/24 dev eth0
        ip -n {name} link set eth0 up
        ip -n {name} link set lo up
        ip -n {name} route add default via 10.231.77.1"""
    for line in commands.splitlines():
        run(line.split(), check=True)
    yield name
    run(["ip", "netns", "del", name], check=True)
    run(["ip", "link", "del", host], check=False, stderr=subprocess.DEVNULL)


def link(namespace: str) -> dict[str, object]:
    output = subprocess.run(["ip", "-n", namespace, "-j", "link", "show", "eth0"], stdout=subprocess.PIPE, check=True)
    found: dict[str, object] = json.loads(output.stdout)[0]
    return found


def in_namespace(name: str) -> dict[str, object]:
    return {"namespaces": [{"type": "network", "path": f"/run/netns/{name}"}]}


def test_a_network_namespace(each: Runtime, namespace: str) -> None:
    """The guest has the address, each of its ports is reached, and it reaches others."""
    before = link(namespace)
    script = """ip -4 addr show eth0 | grep -o 'inet [0-9./]*'; ip route | grep default
        nc -l -p 5000 -e cat; nc 10.231.77.1 5001 < /dev/null | md5sum; exec sleep 600"""
    noise = os.urandom(4_000_000)
    out = each.bundles / "out"
    with out.open("wb") as file:
        each.create("one", each.bundle(script=script, linux=in_namespace(namespace)), stdout=file)
    each.must("start", "one")

    def echoed() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("10.231.77.5", 5000), 5) as connection:
            connection.settimeout(20)
            sender = threading.Thread(target=lambda: (connection.sendall(noise[:500_000]), connection.shutdown(1)))
            sender.start()
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
            sender.join()
            return received == noise[:500_000]
        return False

    with socket.create_server(("10.231.77.1", 5001)) as server:
        server.settimeout(30)
        wait_until(echoed, 40, "an echo")
        connection, (address, _) = server.accept()
        assert address == "10.231.77.5"
        with connection:
            connection.sendall(noise)
    expected = subprocess.run(["md5sum"], input=noise, stdout=subprocess.PIPE, check=True).stdout.decode()
    wait_until(lambda: expected in out.read_text(), 30, "all bytes")
    assert out.read_text().startswith("inet 10.231.77.5/24\ndefault via 10.231.77.1 dev eth0")
    taken = link(namespace)
    assert "NOARP" in taken["flags"]  # type: ignore[operator]
    pid = each.state("one")["pid"]
    each.must("kill", "one")
    each.reap(pid)
    assert link(namespace)["address"] == before["address"]
    assert "NOARP" not in link(namespace)["flags"]  # type: ignore[operator]


def test_a_namespace_that_a_killed_one_had(runtime: Runtime, namespace: str) -> None:
    before = link(namespace)["address"]
    for _ in range(2):
        runtime.create("one", runtime.bundle(script="exec sleep 600", linux=in_namespace(namespace)))
        runtime.must("start", "one")
        assert runtime.must("exec", "one", "cat", "/sys/class/net/eth0/address").strip() == before
        runtime.must("delete", "--force", "one")


def test_no_network(runtime: Runtime) -> None:
    code, output, _ = runtime.output("ls /sys/class/net; ip addr show lo | grep -c 127.0.0.1")
    assert (code, output) == (0, "lo\n1\n")


def test_checksums() -> None:
    """Against RFC 1071's own way, for lengths that are even and odd."""
    for length in (20, 21, 1460, 1461):
        frame = bytearray(os.urandom(14 + length))
        frame[30:32] = bytes(2)
        rest = frame[14:] + bytes(length % 2)
        total = sum(int.from_bytes(rest[at : at + 2], "big") for at in range(0, len(rest), 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        complete_checksum(memoryview(frame), 14, 16)
        assert int.from_bytes(frame[30:32], "big") in (~total & 0xFFFF, 0xFFFF)


def test_the_callers_own_network_by_its_path(runtime: Runtime) -> None:
    """It is the host's, and its interface stays where it is."""
    namespaces = {"namespaces": [{"type": "network", "path": f"/proc/{os.getpid()}/ns/net"}]}
    assert read_bundle(str(runtime.bundle(linux=namespaces))).network == "host"
    assert read_bundle(str(runtime.bundle(linux={"namespaces": [{"type": "network"}]}))).network == "none"


def test_a_hook_that_has_much_to_say(runtime: Runtime) -> None:
    """More than a pipe holds; the last words are told."""
    script = "head -c 300000 /dev/zero | tr '\\0' x; echo the end >&2; exit 3"
    bundle = runtime.bundle(hooks={"createRuntime": [hook(runtime, "loud", script, timeout=20)]})
    said = runtime.refused("create", "--bundle", bundle, "one")
    assert f"{runtime.bundles}/loud: exit status 3: xxx" in said
    assert said.endswith("xthe end")
    assert len(said) < 5000


def test_what_a_hook_finds(runtime: Runtime) -> None:
    """The bundle as its directory, and no signal ignored."""
    script = 'pwd >> "$OUT"; grep SigIgn /proc/self/status >> "$OUT"'
    hooks = {stage: [hook(runtime, stage, script)] for stage in ("prestart", "poststop")}
    bundle = runtime.bundle(hooks=hooks)
    assert runtime.output("true", hooks=hooks)[0] == 0
    said = (runtime.bundles / "said").read_text().split()
    assert said[::3] == [str(bundle)] * 2
    assert [int(mask, 16) & 0x7FFF_FFFF for mask in said[2::3]] == [0, 0]  # above are two of the C library's own


def test_a_hook_that_may_take_for_ever(runtime: Runtime) -> None:
    hooks = {"createRuntime": [hook(runtime, "quick", "true", timeout=(1 << 63) - 1, env=["=x", "A=b"])]}
    assert runtime.output("echo out", hooks=hooks) == (0, "out\n", "")


def test_a_pid_file_that_somebody_has_made_a_link(runtime: Runtime) -> None:
    victim = runtime.bundles / "victim"
    victim.write_text("untouched")
    (runtime.bundles / "pid.new").symlink_to(victim)
    runtime.create("one", runtime.bundle(), "--pid-file", runtime.bundles / "pid")
    assert (runtime.bundles / "pid").read_text() == str(runtime.state("one")["pid"])
    assert victim.read_text() == "untouched"
