"""Does KVM truly work here? /dev/kvm may exist, open and create a VM, and still not run a guest: one is run.

The answer is kept per boot of the host and per QEMU, so that it costs a look into the cache. What may be otherwise the
next time, as on a busy host, is believed for some minutes only.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from pathlib import Path

from pykrun.engine.running import Running
from pykrun.engine.words import PANIC
from pykrun.errors import PykrunError
from pykrun.host.cache import cache_directory, stamp, write_atomic
from pykrun.machine import Kernel, Machine
from pykrun.record import record
from pykrun.sandbox import Ended

_DEVICE = "/dev/kvm"
SECONDS = 10.0
"""How long a guest has to boot."""
DOUBT = 600.0
"""Seconds for which a verdict is believed that may not last: nobody wants to wait for it at every run."""

ROOTLESS = PANIC + b" - not syncing: VFS: Unable to mount root"
"""The end of a boot that has no root to go on with (mount_block_root in the kernel's init/do_mounts.c)."""

_STUCK = (b"KVM internal error", b"error: kvm run failed")  # QEMU says so and waits for somebody to look at it
_SCARCE = tuple(
    os.strerror(number).encode() for number in (errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)


@record(frozen=True, slots=True)
class Verdict:
    """Whether guests run under KVM, and why not.

    :ivar lasting: it will be the same the next time.
    """

    works: bool
    reason: str = ""
    lasting: bool = False


def kvm(program: Path, kernel: Kernel | None) -> Verdict:
    """Return whether `program` runs `kernel` under KVM; the first call of a boot runs a guest to find out."""
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Verdict(False, f"{_DEVICE}: {error.strerror}")
    if kernel is None:
        return Verdict(False, "there is no kernel to try it with")
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    kept = cache_directory() / "kvm" / f"{boot}-{os.geteuid()}-{stamp(program, kernel.image)}"
    doubt = kept.with_name(f"{kept.name}.doubt")
    try:
        reason = kept.read_text()
        return Verdict(not reason, reason, lasting=True)
    except OSError:
        pass
    try:
        if 0 <= time.time() - doubt.stat().st_mtime < DOUBT:
            return Verdict(False, doubt.read_text())
    except OSError:
        pass
    verdict = try_guest(program, kernel)
    try:
        write_atomic(kept if verdict.lasting else doubt, (verdict.reason.encode(),))
    except OSError:
        pass  # no cache: a guest each time, but the truth
    return verdict


def try_guest(program: Path, kernel: Kernel, accel: str = "kvm") -> Verdict:
    """Boot a kernel without a root, up to the panic that it ends in."""
    from pykrun.engine import qemu

    machine = Machine(kernel=kernel, initramfs=None, shares=(), memory_mib=128, verbose=True)
    try:
        running = qemu.launch(machine, accel=accel, program=program)
    except PykrunError as error:
        return Verdict(False, error.message)
    except OSError as error:
        return Verdict(False, f"the guest did not start: {error.strerror}")
    try:
        return _watch(running)
    except OSError as error:
        return Verdict(False, f"the guest did not start: {error.strerror}")
    finally:
        running.close()


def _watch(running: Running) -> Verdict:
    deadline = time.monotonic() + SECONDS
    said = b""
    while _ready(running.console, deadline):
        chunk = os.read(running.console, 65536)
        said += chunk
        if ROOTLESS in said:
            return Verdict(True, lasting=True)
        if any(words in said for words in _STUCK):
            return Verdict(False, "the guest did not run: " + _telling_line(said), not _is_short(said))
        if not chunk:
            _ready(running.pidfd, deadline)
            return judge_end(said, running.reap())
    return Verdict(False, f"the guest did not boot within {SECONDS:.0f} seconds")


def judge_end(said: bytes, ended: Ended | None) -> Verdict:
    """Say why an engine that ended by itself ran no guest.

    It is the guest's failure, which lasts, if the engine ran and was neither killed nor short of anything.
    """
    if ended is not None and ended.error:
        return Verdict(False, f"the guest did not start: {ended.error}")
    status = None if ended is None else ended.status
    was_killed = status is None or os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    return Verdict(False, "the guest did not start: " + _telling_line(said), not was_killed and not _is_short(said))


def _is_short(said: bytes) -> bool:
    """Whether the host lacked something that it may have the next time."""
    return any(words in said for words in _SCARCE)


def _ready(descriptor: int, deadline: float) -> bool:
    """Wait until something can be read; False when it is too late."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    left = deadline - time.monotonic()
    return left > 0 and bool(poll.poll(left * 1000))


def _telling_line(said: bytes) -> str:
    """The line that says what went wrong: a panic, what KVM did not do, else the engine's first word."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    marks = [words.decode() for words in (PANIC, *_STUCK)]
    telling = [line for line in lines if any(mark in line for mark in marks)] or lines
    return telling[0][:200] if telling else "it said nothing"
