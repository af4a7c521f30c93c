"""Many VMs from one program, by `pykrun.MicroVM` and `pykrun.run`: what an idle one takes, how fast one starts beside
others, and whether anything is left of two hundred.

The program stays one process throughout, as a service would; what its VMs consist of are its descendants.
"""

from __future__ import annotations

import ctypes
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pykrun
from benchmarks.harness import Benchmark, Limit, Options, Series, Table, Unavailable
from benchmarks.memory import own_memory, tree
from benchmarks.programs import available, static

IDLE = 10
SETTLE = 1.0
AT_ONCE = (1, 10, 50)
VALUES = 50
"""Starts measured for each number at once, at least."""

SEQUENTIAL = 200
WARM_UP = 3
GRACE = 10.0
SECONDS = 300.0
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def run(options: Options) -> list[Table]:
    if "uml" not in available(options.engines):
        raise Unavailable("this is measured on User Mode Linux only")
    adopt_orphans()
    return [idle(options), starts(options), leaks(options)]


def root_of(name: str) -> pykrun.Root:
    return pykrun.Root().file(f"/{name}", static(name), mode=0o755)


def idle(options: Options) -> Table:
    """Memory of VMs that wait, each for its input."""
    everything: list[float] = []
    beyond: dict[str, list[float]] = {}
    for _ in range(options.rounds_or(3)):
        with ExitStack() as stack:
            vms = [stack.enter_context(waiting_vm()) for _ in range(IDLE)]
            time.sleep(SETTLE)
            processes = [pid for vm in vms for pid in tree(vm.pid)]
            try:
                everything.append(sum(map(proportional, processes)) / 1024 / IDLE)
                sums: dict[str, float] = {}
                for pid in processes:
                    name = Path(f"/proc/{pid}/comm").read_text().strip()
                    sums[name] = sums.get(name, 0) + own_memory(pid)
            except PermissionError:
                raise Unavailable("the engine's memory map cannot be read; run as root") from None
            for name, value in sums.items():
                beyond.setdefault(name, []).append(value / 1024 / IDLE)
    parts = [Series(f"beyond the guest's: {name}", values, part=True) for name, values in sorted(beyond.items())]
    return Table(
        title=f"uml: memory of an idle VM, {IDLE} at once (PSS of all its processes)",
        series=[Series("all, the guest's pages included", everything), *parts],
        unit="MiB",
    )


@contextmanager
def waiting_vm() -> Iterator[pykrun.MicroVM]:
    """A VM that has written its first line and waits for the end of its input."""
    vm = pykrun.MicroVM(
        ["/first"], root=root_of("first"), engine="uml", stdin=pykrun.PIPE, stdout=pykrun.PIPE, stderr=pykrun.DEVNULL
    )
    with vm:
        assert vm.stdin is not None
        assert vm.stdout is not None
        if not vm.stdout.readline():
            raise RuntimeError("the guest said nothing")
        yield vm
        vm.stdin.close()
        vm.wait(SECONDS)


def starts(options: Options) -> Table:
    """Milliseconds from the request to the command's first byte, with so many requests at the same moment."""
    at_once(2)  # what is compiled and measured once
    series = []
    notes = []
    for number in AT_ONCE:
        values: list[float] = []
        walls = []
        rounds = -(-options.rounds_or(VALUES) // number)
        for _ in range(rounds):
            began = time.perf_counter()
            values += at_once(number)
            walls.append(time.perf_counter() - began)
        series.append(Series(label(number), values, note=f"slowest {max(values):,.0f}"))
        notes.append(f"{number} at once: {number * rounds / sum(walls):.1f} VMs a second, to their ends")
    return Table(title="uml: request to the command's first byte", series=series, peer=label(AT_ONCE[0]), notes=notes)


def label(number: int) -> str:
    return f"{number} at once"


def at_once(number: int) -> list[float]:
    """Milliseconds of each of so many VMs that are asked for together, from threads of their own.

    :raise RuntimeError: one of them failed.
    """
    root = root_of("first")
    barrier = threading.Barrier(number)
    taken: list[float] = []
    errors: list[BaseException] = []

    def one() -> None:
        try:
            barrier.wait(SECONDS)
            result = pykrun.run(["/first"], root=root, engine="uml", timeout=SECONDS, check=True)
            taken.append(result.timing["output"] * 1e3)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise RuntimeError(f"{len(errors)} of {number} VMs failed: {errors[0]!r}")
    return taken


def leaks(options: Options) -> Table:
    """What is there after two hundred VMs, one after the other, that was not there before."""
    number = options.rounds_or(SEQUENTIAL)
    root = root_of("first")
    with tempfile.TemporaryDirectory(prefix="many") as folder, environment(TMPDIR=folder, XDG_RUNTIME_DIR=folder):
        Path(folder).chmod(0o1777)

        def one() -> None:
            pykrun.run(["/first"], root=root, engine="uml", timeout=SECONDS, check=True)

        for _ in range(WARM_UP):
            one()
        before = {name: count(folder) for name, count in KINDS.items()}
        anonymous = resident()
        began = time.perf_counter()
        for _ in range(number):
            one()
        seconds = time.perf_counter() - began
        left = {name: settled(count, folder, before[name]) for name, count in KINDS.items()}
        grown = resident() - anonymous
    return Table(
        title=f"uml: left after {number} VMs, one after the other",
        series=[Series(name, [value], note=f"{before[name]} before") for name, value in left.items()],
        unit="more than before",
        limits=[Limit(f"{name} left", value, 0) for name, value in left.items()],
        notes=[f"{seconds / number * 1e3:,.0f} ms each; the program's own memory grew by {grown / 1024:.1f} MiB"],
    )


def settled(count: Callable[[str], int], folder: str, before: int) -> int:
    """How many there are more than before, once what is ending had time to end."""
    deadline = time.monotonic() + GRACE
    while (more := count(folder) - before) > 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    return max(more, 0)


def descriptors(_: str) -> int:
    return len(os.listdir("/proc/self/fd"))


def sockets(_: str) -> int:
    """Descriptors of this process that are sockets."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode)
        except FileNotFoundError:  # the listing's own
            continue
    return found


def processes(_: str) -> int:
    """Descendants, orphans and those that nobody has waited for included."""
    return sum(1 for _ in tree(os.getpid())) - 1


def threads(_: str) -> int:
    return len(os.listdir("/proc/self/task"))


def mounts(_: str) -> int:
    return len(Path("/proc/self/mountinfo").read_bytes().splitlines())


def files(folder: str) -> int:
    """Files and folders where temporary ones go: TMPDIR, XDG_RUNTIME_DIR, /dev/shm as far as it is ours."""
    return sum(1 for _ in Path(folder).rglob("*")) + sum(1 for _ in Path("/dev/shm").glob("pykrun*"))


KINDS: dict[str, Callable[[str], int]] = {
    "processes": processes,
    "threads": threads,
    "descriptors": descriptors,
    "sockets": sockets,
    "mounts": mounts,
    "temporary files": files,
}


def proportional(pid: int) -> float:
    """PSS in KiB of all of a process."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as lines:
        return next(float(line.split()[1]) for line in lines if line.startswith("Pss:"))


def resident() -> float:
    """KiB of this process' anonymous memory."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        return next(float(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none is out of sight."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@contextmanager
def environment(**changes: str) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


BENCHMARK = Benchmark("many", "idle memory, starts beside others, and leaks of many VMs", run)
