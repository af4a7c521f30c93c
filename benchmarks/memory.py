"""Peak memory of the host's side of a VM beyond the guest's own memory.

Proportional set size (PSS: a page that n processes share counts 1/n for each) of the command, the engine and all their
children, less the mappings of the guest's memory, sampled while the VM boots, pours 64 MiB through standard output and
stays.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Benchmark, Options, Series, Table, Unavailable
from benchmarks.programs import available, running_vm, static

ROUNDS = 3
POURED_MIB = 64
INTERVAL = 0.01
SECONDS = 60.0

# QEMU's is a memfd, User Mode Linux's a file that has lost its name.
GUEST_MEMORY = re.compile(r"/memfd:|\(deleted\)$")


def run(options: Options) -> list[Table]:
    program = static("pour")
    return [measure(engine, program, options) for engine in available(options.engines)]


def measure(engine: str, program: Path, options: Options) -> Table:
    totals: list[float] = []
    peaks: dict[str, list[float]] = {}
    for _ in range(options.rounds_or(ROUNDS)):
        peak = peak_of_one(["--engine", engine, "--file", f"/pour={program}:0755", "--", "/pour", str(POURED_MIB)])
        totals.append(peak.pop("all"))
        for name, value in peak.items():
            peaks.setdefault(name, []).append(value)
    return Table(
        title=f"{engine}: peak memory of the host's side beyond the guest's",
        series=[
            Series("all processes", totals),
            *(Series(name, values, part=True) for name, values in sorted(peaks.items())),
        ],
        unit="MiB",
        notes=["each line is a peak of its own: they need not add up"],
    )


def peak_of_one(arguments: list[str]) -> dict[str, float]:
    """MiB at the peak, of all processes together ("all") and of each by its name."""
    peak = {"all": 0.0}
    said = b""
    deadline = time.monotonic() + SECONDS
    with running_vm(arguments) as process:
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        while b"poured" not in said and time.monotonic() < deadline and process.poll() is None:
            sample(process, peak)
            said += process.stderr.read() or b""
            time.sleep(INTERVAL)
        os.set_blocking(process.stderr.fileno(), True)
    if b"poured" not in said:
        raise RuntimeError(f"the guest did not pour: {said.decode(errors='replace')}")
    return {name: value / 1024 for name, value in peak.items()}


def sample(process: subprocess.Popen[bytes], peak: dict[str, float]) -> None:
    """Raise the peaks, in KiB, to what is used now."""
    used: dict[str, float] = {}
    for pid in tree(process.pid):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            used[name] = used.get(name, 0) + own_memory(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            raise Unavailable("the engine's memory map cannot be read; run as root") from None
    used["all"] = sum(used.values())
    for name, value in used.items():
        peak[name] = max(peak.get(name, 0), value)


def tree(pid: int) -> Iterator[int]:
    """The process and all its descendants."""
    yield pid
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in children:
        yield from tree(child)


def own_memory(pid: int) -> float:
    """PSS in KiB of all mappings but those of the guest's memory."""
    total = 0.0
    counts = True
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                counts = GUEST_MEMORY.search(line) is None
            elif counts and line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


BENCHMARK = Benchmark("memory", "peak memory of the host's side beyond the guest's", run)
