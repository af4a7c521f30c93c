"""Does KVM truly work here? /dev/kvm may exist, open and create a VM, and still not run a guest: one is run.

The answer is kept per boot of the host and per QEMU, so that it costs a look into the cache.
"""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

from pykrun.errors import PykrunError
from pykrun.host.cache import cache_directory, stamp, write_atomic
from pykrun.machine import Kernel, Machine
from pykrun.record import record

_DEVICE = "/dev/kvm"
_SECONDS = 10.0
_ALIVE = b"Kernel panic"  # it came to the end of its boot: there is no root to go on with


@record(frozen=True, slots=True)
class Verdict:
    """Whether guests run under KVM, and why not."""

    works: bool
    reason: str = ""


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
    try:
        reason = kept.read_text()
    except OSError:
        reason = _run_guest(program, kernel)
        try:
            write_atomic(kept, (reason.encode(),))
        except OSError:
            pass  # no cache: a guest each time, but the truth
    return Verdict(not reason, reason)


def _run_guest(program: Path, kernel: Kernel) -> str:
    """Boot a kernel without a root up to its panic; return why that failed, nothing when it did not."""
    from pykrun.engine import qemu

    machine = Machine(kernel=kernel, initramfs=None, shares=(), memory_mib=128, verbose=True)
    try:
        running = qemu.launch(machine, accel="kvm", program=program)
    except PykrunError as error:
        return error.message
    deadline = time.monotonic() + _SECONDS
    said = b""
    poll = select.poll()
    poll.register(running.console, select.POLLIN)
    try:
        while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
            chunk = os.read(running.console, 65536)
            said += chunk
            if _ALIVE in said:
                return ""
            if not chunk:
                return "the guest did not start: " + _last_line(said)
        return f"the guest did not boot within {_SECONDS:.0f} seconds"
    except OSError as error:
        return f"the guest did not start: {error.strerror}"
    finally:
        running.close()


def _last_line(said: bytes) -> str:
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[0][:200] if lines else "it said nothing"
