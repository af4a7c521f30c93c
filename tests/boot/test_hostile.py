"""The guest's root does its worst: nothing of the host is seen or changed."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.boot.vm import Script, Vm, engine_process, read_line
from tests.support.command import ROOT, Pykrun

UML_MODULES = Path("/usr/lib/uml/modules")


def test_hostfs_shows_nothing_of_the_host(vm: Vm, tmp_path: Path) -> None:
    """User Mode Linux can mount the host's files with the engine's rights, and a path with .. leaves its folder."""
    marker = tmp_path / "marker"
    marker.write_text("a secret of the host")
    marker.chmod(0o666)
    tmp_path.chmod(0o777)
    up = "../" * 20
    sources = ["", "/", up, f"{up}etc", f"{up}proc", f"{up}{tmp_path}", str(tmp_path), f"{up}root", f"{up}dev"]
    script = Script()
    seen = []
    for number, source in enumerate(sources):
        at = f"/mnt/{number}"
        mounted = script.call("mount", "none", at, "hostfs", source)
        listed = script.call("ls", at)
        found = [
            script.read(f"{at}{path}") for path in ("/etc/shadow", "/shadow", "/marker", f"{marker}", "/1/environ")
        ]
        written = [script.call("write", f"{at}/marker", "changed"), script.call("open", f"{at}/planted", "excl")]
        seen.append((source, mounted, listed, found, written))
        script.call("umount", at)
    options = [word for number in range(len(sources)) for word in ("--dir", f"/mnt/{number}")]
    vm.script(script, *options)
    allowed = {b".", b"..", b"planted"}  # what this guest itself wrote into the engine's empty folder
    for source, mounted, listed, found, _written in seen:
        assert all(outcome.value < 0 for outcome in found), source
        if vm.engine == "qemu":
            assert mounted.value == -errno.ENODEV
        if source in ("", "/", str(tmp_path)):
            assert set(listed.data.split(b"\0")[:-1]) <= allowed, source
    assert marker.read_text() == "a secret of the host"
    assert not (tmp_path / "planted").exists()


def test_no_way_out_by_network(vm: Vm) -> None:
    """Without a network device the guest's loopback is its own, and there is no route to anywhere."""
    abstract = f"pykrun-test-{os.getpid()}"
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0{abstract}")
        local.listen()
        port = str(server.getsockname()[1])
        script = Script()
        loopback = script.call("connect", "127.0.0.1", port)
        others = [script.call("connect", address, port) for address in ("10.0.2.2", "192.0.2.1", "169.254.169.254")]
        unix = script.call("unix", f"@{abstract}")
        vm.script(script)
    assert loopback.value == -errno.ECONNREFUSED
    assert [outcome.value for outcome in others] == [-errno.ENETUNREACH] * 3
    assert unix.value == -errno.ECONNREFUSED


@pytest.mark.uml
def test_loading_a_module_stays_in_the_guest(tool: Path, run_pykrun: Pykrun) -> None:
    """Code in the guest's kernel is code in the engine's process here; loading some harms nobody."""
    vm = Vm("uml", tool, run_pykrun)
    module = next(UML_MODULES.glob("*/kernel/lib/crc7.ko"), None)
    assert module is not None, f"no crc7.ko below {UML_MODULES}"
    script = Script()
    loaded, listed = script.call("insmod", "/module.ko"), script.read("/proc/modules")
    broken = script.call("insmod", "/tool")
    vm.script(script, "--file", f"/module.ko={module}")
    assert loaded.value == 0
    assert b"crc7 " in listed.data
    assert broken.value == -errno.ENOEXEC


def test_killing_everything_kills_the_guest_only(vm: Vm) -> None:
    """SIGKILL for -1 by the guest's root: init and the streams survive, and so do the host's processes."""
    with subprocess.Popen(["sleep", "300"]) as bystander:
        try:
            result = vm.tool_run("massacre")
            assert result.code == 43
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_engine_has_no_rights(vm: Vm) -> None:
    """What the engine could do if the guest took it over: nothing, as far as the kernel lets us have it so."""
    if os.geteuid() != 0:
        pytest.skip("an ordinary user's sandbox depends on the machine")
    process = vm.start("--sandbox", "require", "--", "/tool", "sleep", "100", "ready")
    try:
        assert read_line(process) == b"ready\n"
        engine = Path(f"/proc/{engine_process(process, vm.engine).pid}")
        lines = (engine / "status").read_text().splitlines()
        status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
        assert "0" not in status["Uid"] + status["Gid"] + status["Groups"]
        assert {status[name][0] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == ["1"]
        assert len(status["NSpid"]) > 1
        for name in ("mnt", "pid", "net", "ipc"):
            assert os.readlink(engine / "ns" / name) != os.readlink(f"/proc/self/ns/{name}"), name
        assert not [
            path
            for path in ("etc/shadow", "root", "home", "proc/1", str(ROOT).lstrip("/"))
            if (engine / "root" / path).exists()
        ]
        limits = (engine / "limits").read_text().splitlines()
        assert next(line for line in limits if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]
    finally:
        process.terminate()
        process.communicate(timeout=60)
