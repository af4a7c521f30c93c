"""The guest's C programs of the benchmarks, and the pykrun command as it is measured."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Unavailable
from pykrun.host.cache import cache_directory

SOURCES = Path(__file__).parent / "guest"
ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {"uml": "linux.uml", "qemu": f"qemu-system-{os.uname().machine}"}
TIMEOUT = 120.0

_STEP = re.compile(r"pykrun: guest: +([0-9]+) us  (\S+)")
_PHASE = re.compile(r"pykrun: +([0-9.]+) ms +([0-9.]+) ms  (\S+)")


def static(name: str, compiler: str = "musl-gcc", flags: Sequence[str] = ("-Os",)) -> Path:
    """The static program made of guest/NAME.c; compiled once.

    :raise Unavailable: the compiler is missing.
    """
    found = shutil.which(compiler)
    if found is None:
        raise Unavailable(f"no {compiler} on PATH")
    source = SOURCES / f"{name}.c"
    key = hashlib.sha256(source.read_bytes() + found.encode()).hexdigest()[:16]
    program = cache_directory() / "bench" / f"{name}-{key}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")
        subprocess.run([found, *flags, "-static", "-s", "-o", unfinished, source], check=True, timeout=600)
        unfinished.rename(program)
    return program


def available(engines: Sequence[str]) -> list[str]:
    """Those of the engines whose program is installed.

    :raise Unavailable: none is.
    """
    found = [name for name in engines if name in PROGRAMS and shutil.which(PROGRAMS[name])]
    if not found:
        raise Unavailable(f"none of the engines {', '.join(engines)} is installed")
    return found


@dataclass(frozen=True, slots=True)
class VmRun:
    """One run of `pykrun run -v`.

    :param wall: milliseconds from the start of the command until it was waited for.
    :param reached: milliseconds from its first look at the clock until each phase was reached.
    :param steps: milliseconds of each step of init, where it was asked to trace (KRUN_INIT_TRACE).
    """

    wall: float
    reached: dict[str, float]
    steps: dict[str, float]


def run_vm(arguments: Sequence[str], *, verbose: bool = True) -> VmRun:
    """Run `./pykrun run ARGUMENTS` with no input and with its output thrown away.

    :raise RuntimeError: it failed; the message has what it said.
    """
    command = [str(ROOT / "pykrun"), "run", *(["-v"] if verbose else []), *arguments]
    before = time.perf_counter()
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=TIMEOUT
    )
    wall = (time.perf_counter() - before) * 1e3
    said = result.stderr.decode(errors="replace")
    if result.returncode != 0:
        raise RuntimeError(f"pykrun ended with {result.returncode}: {said}")
    phases = {match[3]: float(match[2]) for match in _PHASE.finditer(said)}
    return VmRun(wall, phases, {match[2]: int(match[1]) / 1000 for match in _STEP.finditer(said)})


@contextmanager
def running_vm(arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A `pykrun run ARGUMENTS` that goes on; its input is closed and its end awaited when the block is left."""
    command = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(ROOT / "src"), "run", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
        process.communicate(timeout=TIMEOUT)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=TIMEOUT)


_LAUNCH = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pykrun.cli import main; sys.exit(main())"
