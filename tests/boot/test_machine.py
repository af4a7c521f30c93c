"""What the machine is made of: memory, CPUs, the boot log, and several machines at once."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.boot.vm import Script, Vm, finish
from tests.support import order


def test_memory_and_cpus(vm: Vm) -> None:
    """User Mode Linux has one CPU, whatever was asked for."""
    script = Script()
    memory, cpus = script.read("/proc/meminfo"), script.read("/sys/devices/system/cpu/online")
    result = vm.tool_run("ops", *script.words, options=["--memory", "384", "--cpus", "2"])
    script.fill(result.out)
    assert result.code == 0
    assert (b"one CPU" in result.err) is (vm.engine == "uml")
    total = int(memory.data.split()[1])
    assert 300 << 10 < total <= 384 << 10
    assert cpus.data == (b"0\n" if vm.engine == "uml" else b"0-1\n")


def test_boot_log(vm: Vm, tmp_path: Path) -> None:
    """The kernel's words go into the file, and nowhere else."""
    log = tmp_path / "boot.log"
    log.write_text("old")
    result = vm.tool_run("echo", "only this", options=["--boot-log", str(log)])
    assert (result.code, result.out, result.err) == (0, b"only this", b"")
    assert b"Linux version" in log.read_bytes()


def test_verbose_leaves_standard_output_alone(vm: Vm) -> None:
    result = vm.tool_run("echo", "only this", options=["-v"])
    assert (result.code, result.out) == (0, b"only this")
    assert vm.engine.encode() in result.err.lower()


def test_trace_of_the_boot(vm: Vm) -> None:
    """Every step in order with its time, stage one's own among them."""
    result = vm.tool_run("exit", "0", options=["-v", "--kernel-arg", "KRUN_INIT_TRACE=1"])
    found = re.findall(rb"pykrun: guest: +(\d+) us  (\S.*)\n", result.err)
    names = [name.decode() for _time, name in found]
    modules = [name for name in names if name.endswith(".ko")]
    assert len(modules) >= 3
    inside = [*modules, "virtio-fs root mounted"]
    at = order.names(order.BOOT).index("stage_one.enter_root")
    expected = order.names(order.BOOT)
    assert names == ["since the kernel started", *expected[:at], *inside, *expected[at:]]
    assert all(int(time) < 60_000_000 for time, _name in found)


def test_big_file(vm: Vm, tmp_path: Path, busybox: Path) -> None:
    """More than one request, one read-ahead window and one queue can carry."""
    data = os.urandom(1 << 20) * 24 + b"end"
    (tmp_path / "big").write_bytes(data)
    options = ["--file", f"/big={tmp_path / 'big'}", "--file", f"/bin/busybox={busybox}:0755"]
    result = vm.run(*options, "--", "/bin/busybox", "cat", "/big")
    assert (result.code, result.err) == (0, b"")
    assert result.out == data


def test_several_at_once(vm_once: Vm) -> None:
    processes = [vm_once.start("--text", f"/who={number}", "--", "/tool", "ops", "read", "/who") for number in range(6)]
    results = [finish(process) for process in processes]
    assert [(result.code, result.err) for result in results] == [(0, b"")] * 6
    assert [result.out for result in results] == [b"1 %02x\n" % (48 + number) for number in range(6)]
