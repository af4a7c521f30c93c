"""Our block device on User Mode Linux next to the kernel's own ubd, and what a request costs our server.

The same kernel, guest program and image in the page cache of the host. Most work is O_DIRECT, so that each request
reaches the host. Both engines run without a jail: ubd opens its image by path.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.harness import Benchmark, Limit, Options, Series, Table, Unavailable, interleave
from benchmarks.programs import PROGRAMS, available, static
from pykrun.disk import open_image
from pykrun.engine import Endpoint
from pykrun.errors import MissingError
from pykrun.kernel import UML_MODULES, cpio
from pykrun.sandbox.servant import Servant, Service, serve
from pykrun.supervisor.disks import serve_disk

ROUNDS = 7
SIZE = 128 << 20
SECONDS = 60.0
PEER, OURS, SERVER = "ubd", "pykrun", "CPU of the server"


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of work.

    :param count: how many requests of the guest's program.
    :param limit: the promised ratio to ubd.
    """

    about: str
    count: int
    limit: float


WORK = {
    "read4k": Work("4 KiB random reads, one at a time", 2000, 2.5),
    "write4k": Work("4 KiB random writes, one at a time", 2000, 2.5),
    "sync4k": Work("4 KiB random writes into the page cache, then fsync", 4000, 2.0),
    "read1m": Work("1 MiB sequential reads", 256, 1.0),
    "write1m": Work("1 MiB sequential writes", 256, 1.0),
}
"""Small requests cost a trip to another process and back, which is shared when several are in flight."""

_LINE = re.compile(r"(begin|end) (\w+)(?: ([0-9.]+))?")


def run(options: Options) -> list[Table]:
    """Measure both in turns."""
    if "uml" not in available(options.engines):
        raise Unavailable("ubd is User Mode Linux's")
    rounds: dict[str, list[dict[str, float]]] = {PEER: [], OURS: []}
    with tempfile.TemporaryDirectory(prefix="pykrun-bench-") as name:
        place = Path(name)
        image = place / "image"
        image.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
        prepare(place)

        def measure(which: str, guest: Callable[[Path, Path], dict[str, float]]) -> float:
            rounds[which].append(guest(place, image))
            return 0.0

        contestants = {PEER: partial(measure, PEER, with_ubd), OURS: partial(measure, OURS, with_ours)}
        interleave(options.rounds_or(ROUNDS), contestants)
    return [table(work, rounds) for work in WORK]


def table(work: str, rounds: dict[str, list[dict[str, float]]]) -> Table:
    """The values of one kind of work, the warm-up left out."""
    series = [Series(name, [values[work] for values in rounds[name][1:]]) for name in (PEER, OURS)]
    server = Series(SERVER, [values[f"{work} server"] for values in rounds[OURS][1:]], part=True)
    notes = []
    if work.endswith("1m"):
        speeds = ", ".join(f"{entry.name} {1.048576e6 / entry.median:,.0f} MB/s" for entry in series)
        notes.append(f"medians as throughput: {speeds}")
    about = WORK[work].about
    found = Table(title=f"uml: {about}, time of a request", series=[*series, server], unit="us", peer=PEER)
    limit = Limit(f"ratio to ubd, {about}", found.ratio(OURS), WORK[work].limit)
    return Table(title=found.title, series=found.series, unit="us", peer=PEER, notes=notes, limits=[limit])


def prepare(place: Path) -> None:
    """Make the guest's initramfs and the folders that the kernel wants."""
    entries = [cpio.folder("dev"), cpio.character_device("dev/console", 5, 1)]
    entries += [cpio.file("init", static("block").read_bytes(), 0o755)]
    modules = sorted(UML_MODULES.glob("*/kernel/drivers/block/virtio_blk.ko"))
    if modules:
        entries.append(cpio.file("virtio_blk.ko", modules[-1].read_bytes()))
    (place / "initramfs").write_bytes(b"".join(cpio.archive(entries)))
    (place / "empty").mkdir()


def with_ubd(place: Path, image: Path) -> dict[str, float]:
    """Boot with ubd; microseconds a request."""
    return boot(place, [f"ubd0={image}", "BLOCK_DEVICE=ubda"], None)


def with_ours(place: Path, image: Path) -> dict[str, float]:
    """Boot with our device, served as in a run: by a process in its sandbox."""
    path = place / "disk"
    path.unlink(missing_ok=True)
    disk = open_image(str(image))
    listener = socket.socket(socket.AF_UNIX)
    servant = None
    try:
        listener.bind(str(path))
        listener.listen(1)
        work = partial(serve_disk, Endpoint(listener, connected=False), disk)
        servant = serve(Service(name="disk", serve=work, descriptors=(listener.fileno(), disk.descriptor)))
        return boot(place, [f"virtio_uml.device={path}:2", "BLOCK_DEVICE=vda"], servant)
    except MissingError as error:
        raise Unavailable(str(error)) from None
    finally:
        listener.close()
        os.close(disk.descriptor)
        if servant is not None:
            servant.close()


def boot(place: Path, words: list[str], servant: Servant | None) -> dict[str, float]:
    """Run the guest; microseconds a request of each kind of work, and of the server's CPU."""
    command = ["setarch", "-R", PROGRAMS["uml"], "mem=128M", f"initrd={place}/initramfs", "con0=fd:0,fd:1", "con=null"]
    command += ["quiet", "noreboot", f"uml_dir={place}/", f"hostfs={place}/empty"]
    command += ["initcall_blacklist=raid6_select_algo", "pty.legacy_count=0", *words]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(place), "HOME": str(place)},
    )
    said: list[str] = []
    try:
        signal.alarm(int(SECONDS))
        return listen(process, servant, said)
    finally:
        signal.alarm(0)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate(timeout=SECONDS)


def listen(process: subprocess.Popen[bytes], servant: Servant | None, said: list[str]) -> dict[str, float]:
    """Read what the guest prints, and the server's CPU time whenever a kind of work begins or ends."""
    found: dict[str, float] = {}
    began = 0.0
    assert process.stdout is not None
    for raw in process.stdout:
        text = raw.decode(errors="replace").strip()
        said.append(text)
        match = _LINE.search(text)
        if match is None:
            if text.endswith("done"):
                return found
            continue
        used = cpu_time(servant.pid) if servant is not None else 0.0
        kind, work, value = match.groups()
        if kind == "begin":
            began = used
        elif work in WORK:
            found[work] = float(value)
            found[f"{work} server"] = (used - began) / WORK[work].count
    raise RuntimeError("the guest did not come to its end: " + " | ".join(said[-40:]))


def cpu_time(pid: int) -> float:
    """Microseconds that a process has run (/proc/PID/schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e3


BENCHMARK = Benchmark("block", "the block device of User Mode Linux guests, next to ubd", run)
