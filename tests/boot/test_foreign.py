"""A guest of another kind than the host: init blob, kernel and engine of that kind, and programs in it that run."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pykrun import blob
from pykrun.kernel import for_qemu
from tests.boot.test_words import ALL_BYTES, ODD
from tests.boot.vm import Result, Script, Vm, Word
from tests.support.command import Pykrun
from tests.support.cross import OTHER, compiler_for, engine_for_other

GUEST = Path(__file__).parent / "guest"

pytestmark = pytest.mark.full


@pytest.fixture(scope="session")
def foreign_tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's static program, compiled for the other machine."""
    folder = tmp_path_factory.mktemp("foreign")
    zig = compiler_for(OTHER)
    compiler = zig.write(folder)
    sources = sorted(str(path) for path in GUEST.glob("*.c"))
    flags = [*zig.flags, "-static", "-no-pie", "-Wall", "-Wextra", "-Werror", "-s"]
    target = folder / "tool"
    subprocess.run([compiler, *flags, "-o", str(target), *sources], check=True, timeout=600)
    return target


@pytest.fixture
def foreign(foreign_tool: Path, run_pykrun: Pykrun) -> Vm:
    """`pykrun run` with the engine for the other machine; the blob is built if it is older than the sources."""
    engine_for_other()
    blob.build(OTHER)
    return Vm("qemu", foreign_tool, run_pykrun)


ARCH = ("--arch", OTHER)
ROUTES = "/proc/net/route"
LIMIT = 180.0
"""Seconds for one run; `--full` has many a test that keeps the machine busy."""


def tool_run(vm: Vm, *words: Word, options: Sequence[Word] = ARCH, stdin: bytes | None = None) -> Result:
    return vm.run(*options, "--", "/tool", *words, stdin=stdin, limit=LIMIT)


def test_arguments_and_exit_code(foreign: Vm) -> None:
    words: list[Word] = [*ODD, ALL_BYTES, b"x" * 100_000]
    result = tool_run(foreign, "argv", *words)
    assert (result.code, result.err) == (0, b"")
    assert result.lines() == words
    result = tool_run(foreign, "exit", "42", options=(*ARCH, "--cpus", "2", "--sandbox", "require"))
    assert (result.code, result.out, result.err) == (42, b"", b"")


def test_streams(foreign: Vm) -> None:
    data = bytes(range(256)) * 2000
    result = tool_run(foreign, "cat", stdin=data)
    assert (result.code, result.out, result.err) == (0, data, b"")


def test_death_by_signal_and_a_kernel_that_tells_what_it_is(foreign: Vm) -> None:
    kernel = for_qemu(OTHER)
    assert kernel is not None, "./setup cross"
    result = tool_run(foreign, "signal", "11", options=("--kernel", str(kernel.image)))
    assert (result.code, result.out, result.err) == (139, b"", b"")


def test_nothing_of_init_is_writable_and_executable(foreign: Vm) -> None:
    """The snapshot's segments are loaded as both (resume.c)."""
    script = Script()
    maps = script.read("/proc/1/maps")
    result = tool_run(foreign, "ops", *script.words)
    assert (result.code, result.err) == (0, b"")
    script.fill(result.out)
    modes = [line.split()[1] for line in maps.data.splitlines() if b"[" not in line]
    assert b"rw-p" in modes
    assert b"r-xp" in modes
    assert not [mode for mode in modes if b"w" in mode and b"x" in mode]


def test_shared_directory_network_and_disk(foreign: Vm, tmp_path: Path) -> None:
    """The devices that have drivers of their own in the guest."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(b"shared")
    image = tmp_path / "image"
    image.write_bytes(b"on the disk".ljust(1 << 20, b"."))
    script = Script()
    shared, disk, route = script.read("/file"), script.call("pread", "/dev/vda", "0", "11"), script.read(ROUTES)
    options = [*ARCH, "--root", str(root), "--disk", f"{image}:ro", "--net", "user"]
    result = tool_run(foreign, "ops", *script.words, options=options)
    assert (result.code, result.err) == (0, b"")
    script.fill(result.out)
    assert (shared.data, disk.data) == (b"shared", b"on the disk")
    assert b"\neth0\t00000000\t" in route.data, "a default route"


def test_a_program_of_the_hosts_kind_cannot_run(foreign: Vm, tool: Path) -> None:
    result = foreign.run(*ARCH, "--file", f"/other={tool}:0755", "--", "/other", "exit", "0", limit=LIMIT)
    assert (result.code, result.out) == (126, b"")
    assert b"/other" in result.err
