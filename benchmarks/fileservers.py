"""File servers of several makes, and one guest that works on what they share.

A server is started as a user would start it, on a vhost-user socket. The guest is a kernel of one of our engines with
guest/fs.c as its init: it carries out what it is told through its console and says how long it took.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.harness import Unavailable
from benchmarks.memory import tree
from benchmarks.programs import ROOT, static
from pykrun.engine import choose
from pykrun.errors import PykrunError
from pykrun.kernel import cpio
from pykrun.kernel.image import uncompressed
from pykrun.kernel.modules import ModuleTree
from pykrun.kernel.strip import without_debug

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
"""The C program that QEMU brought up to version 7.2 (Debian: qemu-system-common)."""
MEMORY_MIB = 768
_START_SECONDS = 30.0
_WORK_SECONDS = 240.0
_QUIET = 0.04
"""Seconds without any CPU time after which a server has nothing left to do."""


class FileServer(ABC):
    """A running server.

    :param name: for the tables.
    :param process: what was started; it and all its descendants count.
    :param log: where its standard error goes.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log
        self._position = 0

    def cpu(self) -> float:
        """Milliseconds of CPU, user and system, of all its processes and threads so far."""
        used = 0
        for pid in tree(self.process.pid):
            try:
                used += time.clock_gettime_ns(_cpu_clock(pid))
            except OSError:
                continue  # it has just ended
        return used / 1e6

    def settle(self) -> None:
        """Wait until it has nothing to do."""
        last, deadline = -1.0, time.monotonic() + 5
        while (used := self.cpu()) != last and time.monotonic() < deadline:
            last = used
            time.sleep(_QUIET)

    def new_log(self) -> str:
        """What it has logged since the last call."""
        with open(self.log, "rb") as file:
            file.seek(self._position)
            text = file.read()
        self._position += len(text)
        return text.decode(errors="replace")

    @abstractmethod
    def requests(self) -> dict[str, int]:
        """How many requests of each operation came, since the last call."""

    def memory(self) -> int:
        """Bytes of memory that are its own (PSS) now."""
        return 1024 * sum(_rollup(pid) for pid in tree(self.process.pid))

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in tree(self.process.pid))


class Ours(FileServer):
    """`pykrun fs`."""

    _before: dict[str, int] = {}

    def requests(self) -> dict[str, int]:
        """Ask it: SIGUSR1 has it tell all counts."""
        os.kill(self.process.pid, signal.SIGUSR1)
        text, deadline = "", time.monotonic() + 5
        while not re.search(r"requests: \d+\n", text) and time.monotonic() < deadline:
            time.sleep(0.02)
            text += self.new_log()
        time.sleep(0.02)
        text += self.new_log()
        found = re.findall(r"^pykrun:   ([A-Z0-9_]+) +(\d+)$", text, re.MULTILINE)
        counts = {name: int(number) for name, number in found}
        since = {name: number - self._before.get(name, 0) for name, number in counts.items()}
        self._before = counts
        return {name: number for name, number in since.items() if number}


class Theirs(FileServer):
    """The C virtiofsd; it counts nothing, so its debug log is counted (started with `counting`)."""

    def requests(self) -> dict[str, int]:
        """Count the log's lines."""
        counts: dict[str, int] = {}
        for name in re.findall(r"unique: \d+, opcode: (\w+)", self.new_log()):
            counts[name] = counts.get(name, 0) + 1
        return counts


def start_ours(folder: Path, shared: Path, cache: str, *more: str) -> Ours:
    """Start `pykrun fs`, sandboxed."""
    arguments = ["fs", "--socket-path", str(folder / "ours"), "--tag", "ours", "--shared-dir", str(shared)]
    arguments += ["--cache", cache, *more]
    command = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(ROOT / "src"), *arguments]
    return Ours("pykrun", *_started(command, folder / "ours"))


_LAUNCH = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pykrun.cli import main; sys.exit(main())"


def start_theirs(folder: Path, shared: Path, cache: str, *, counting: bool = False) -> Theirs:
    """Start virtiofsd, in its sandbox of namespaces, with what ours has by default.

    :param counting: log every request, which costs it a lot.
    :raise Unavailable: it is not here.
    """
    if not os.access(VIRTIOFSD, os.X_OK) or os.geteuid() != 0:
        raise Unavailable(f"no {VIRTIOFSD} (Debian 12: qemu-system-common), or this is not root")
    (place := folder / "top").mkdir()
    options = f"source={place},cache={cache.replace('never', 'none')},xattr,announce_submounts"
    command = [VIRTIOFSD, f"--socket-path={folder / 'theirs'}", "-o", options, "-d" if counting else "-f"]
    # It cannot share the host's root itself (pivot_root says EBUSY), but a bind mount of it, in a namespace of its own.
    bind = ["unshare", "--mount", "sh", "-c", 'mount --rbind "$1" "$2" && shift 2 && exec "$@"', "sh"]
    return Theirs("virtiofsd", *_started([*bind, str(shared), str(place), *command], folder / "theirs"))


def _started(command: Sequence[str], path: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a server and wait for its socket."""
    log = path.with_suffix(".log")
    with open(log, "wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    deadline = time.monotonic() + _START_SECONDS
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise Unavailable(f"{command[0]} does not serve: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.02)
    return process, log


def stop(server: FileServer) -> None:
    """End a server."""
    server.process.terminate()
    try:
        server.process.wait(10)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait(10)


class Guest:
    """A running guest, and what it is told."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._seen = b""

    def do(self, *words: str) -> float:
        """Have it carry out one of the works of guest/fs.c; return milliseconds.

        :raise RuntimeError: it failed, or took too long.
        """
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(words).encode() + b"\n")
        self._process.stdin.flush()
        return self.answer(" ".join(words), _WORK_SECONDS)

    def answer(self, what: str, seconds: float) -> float:
        """Wait for an answer."""
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        deadline = time.monotonic() + seconds
        while True:
            lines = self._seen.split(b"\n")
            for index, line in enumerate(lines[:-1]):
                if match := re.search(rb"^= (\d+)\r?$", line):
                    self._seen = b"\n".join(lines[index + 1 :])
                    return int(match[1]) / 1e6
                if line.startswith(b"! "):
                    self._seen = b"\n".join(lines[index + 1 :])
                    raise RuntimeError(f"{what}: {line.decode(errors='replace')}")
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise RuntimeError(f"{what}: no answer; the guest said {self._seen[-2000:]!r}")
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                raise RuntimeError(f"{what}: the guest is gone; it said {self._seen[-2000:]!r}")
            self._seen += chunk


@contextmanager
def guest(engine: str, sockets: Sequence[tuple[str, Path]], folder: Path) -> Iterator[Guest]:
    """A guest with a virtio-fs device for each (tag, socket).

    :raise Unavailable: the engine or its kernel is not here.
    """
    command = _qemu(sockets, folder) if engine == "qemu" else _uml(sockets, folder)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder), "HOME": str(folder)},
    )
    try:
        found = Guest(process)
        found.answer("boot", _START_SECONDS)
        yield found
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # the group: User Mode Linux has helpers
        except ProcessLookupError:
            pass
        process.communicate(timeout=20)


def _initramfs(engine: str, folder: Path, modules: Sequence[str]) -> tuple[Path, Path]:
    """Kernel image and initramfs."""
    try:
        kernel = choose(engine).kernel()
        entries = [cpio.folder(name) for name in ("dev", "proc", "sys", "mnt", "modules")]
        entries += [cpio.character_device("dev/console", 5, 1), cpio.character_device("dev/null", 1, 3)]
        if kernel.modules is not None:
            order = ModuleTree(kernel.modules).load_order(tuple(modules))
            entries += [
                cpio.file(f"modules/{index:02}-{name}.ko", without_debug(data))
                for index, (name, data) in enumerate(order)
            ]
    except PykrunError as error:
        raise Unavailable(str(error)) from None
    entries.append(cpio.file("init", static("fs").read_bytes(), 0o755))
    path = folder / "initramfs"
    path.write_bytes(b"".join(cpio.archive(entries)))
    return kernel.image, path


def _qemu(sockets: Sequence[tuple[str, Path]], folder: Path) -> list[str]:
    image, initramfs = _initramfs("qemu", folder, ("virtio_pci", "virtiofs"))
    words = "console=ttyS0 quiet loglevel=0 panic=-1 reboot=t nokaslr mitigations=off cryptomgr.notests no_timer_check"
    command = ["qemu-system-x86_64", "-M", "q35,memory-backend=mem", "-accel", "tcg,thread=multi", "-cpu", "max"]
    command += ["-m", str(MEMORY_MIB), "-nodefaults", "-no-reboot", "-no-user-config", "-display", "none"]
    command += ["-object", f"memory-backend-memfd,id=mem,size={MEMORY_MIB}M,share=on"]
    command += ["-kernel", str(uncompressed(image)), "-initrd", str(initramfs), "-append", words]
    command += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    for tag, path in sockets:
        command += ["-chardev", f"socket,id={tag},path={path}"]
        command += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024"]
    return command


def _uml(sockets: Sequence[tuple[str, Path]], folder: Path) -> list[str]:
    image, initramfs = _initramfs("uml", folder, ("virtiofs",))
    setarch = shutil.which("setarch")
    if setarch is None:
        raise Unavailable("no setarch on PATH")
    (folder / "empty").mkdir(exist_ok=True)
    command = [setarch, "-R", str(image), f"mem={MEMORY_MIB}M", f"initrd={initramfs}", "con0=fd:0,fd:1", "con=null"]
    command += ["console=tty0", "quiet", "loglevel=0", "noreboot", f"uml_dir={folder}/", f"hostfs={folder}/empty"]
    command += ["lsm=capability", "initcall_blacklist=raid6_select_algo,init_zswap", "pty.legacy_count=0"]
    return [*command, *(f"virtio_uml.device={path}:26" for _tag, path in sockets)]


def _cpu_clock(pid: int) -> int:
    """The number of another process' CPU clock (clock_getcpuclockid(3)): user and system time to the nanosecond."""
    return ~pid << 3 | 2


def _rollup(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    match = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
    return int(match[1]) if match else 0


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for sockets, logs and trees, removed afterwards."""
    with ExitStack() as stack:
        yield Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pykrun-bench-")))
