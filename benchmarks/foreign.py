"""A guest of another machine than the host, next to one of the host's kind; QEMU emulates both.

From the engine's start to the workload's first line, as in `boot`. Needs what `./setup cross` brings.
"""

from __future__ import annotations

import os

from benchmarks.harness import Benchmark, Options, Table, Unavailable, interleave
from benchmarks.programs import available, run_vm, static
from pykrun import blob
from pykrun.blob.targets import TARGETS
from pykrun.blob.zig import Zig, find_zig
from pykrun.errors import MissingError
from pykrun.host.cache import cache_directory

ROUNDS = 8
HOST = os.uname().machine
OTHER = "aarch64" if HOST == "x86_64" else "x86_64"


def run(options: Options) -> Table:
    available(("qemu",))
    zig = compiler()
    folder = cache_directory() / "bench" / f"compiler-{OTHER}"
    folder.mkdir(parents=True, exist_ok=True)
    programs = {HOST: static("first"), OTHER: static("first", str(zig.write(folder)), (*zig.flags, "-no-pie"))}

    def boot(arch: str) -> float:
        words = ("--engine", "qemu", "--accel", "tcg", "--arch", arch)
        reached = run_vm([*words, "--file", f"/first={programs[arch]}:0755", "--", "/first"]).reached
        return reached["output"] - reached["prepared"]

    contestants = {arch: lambda arch=arch: boot(arch) for arch in (HOST, OTHER)}
    series = interleave(options.rounds_or(ROUNDS), contestants)
    return Table(title="QEMU's emulation: engine start to the workload's first line", series=series, peer=HOST)


def compiler() -> Zig:
    """What compiles for the other machine."""
    zig = find_zig(TARGETS[OTHER])
    if zig is None:
        raise Unavailable("no cross compiler (./setup cross)")
    try:
        blob.find(OTHER)
    except MissingError as error:
        raise Unavailable(str(error)) from None
    return zig


BENCHMARK = Benchmark("foreign", "a guest of another machine, next to one of the host's kind", run)
