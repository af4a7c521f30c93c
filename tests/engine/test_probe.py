"""What the probe for KVM believes, on guests that run by emulation, and what it remembers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pykrun.engine import probe
from pykrun.engine.probe import Verdict, judge_end
from pykrun.sandbox import Ended
from tests.engine import guest

ABORTED, FAILED = Ended(int(signal.SIGABRT)), Ended(1 << 8)
kvm_opens = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm to try")


@pytest.mark.qemu
def test_a_kernel_that_looked_for_its_root_has_booted() -> None:
    engine = guest.choose("qemu")
    assert probe.try_guest(engine.program, engine.kernel(), "tcg") == Verdict(True, "", lasting=True)


@pytest.mark.qemu
def test_a_guest_that_only_is_slow_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = guest.choose("qemu")
    monkeypatch.setattr(probe, "SECONDS", 0.2)
    verdict = probe.try_guest(engine.program, engine.kernel(), "tcg")
    assert not verdict.works
    assert not verdict.lasting
    assert "did not boot" in verdict.reason


@kvm_opens
@pytest.mark.qemu
def test_a_doubt_is_believed_for_minutes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = guest.choose("qemu")
    kernel = engine.kernel()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with monkeypatch.context() as hurry:
        hurry.setattr(probe, "SECONDS", 0.0)
        assert not probe.kvm(engine.program, kernel).works
    (doubt,) = (tmp_path / "pykrun/kvm").iterdir()
    with monkeypatch.context() as never:
        never.setattr(probe, "try_guest", None)
        assert probe.kvm(engine.program, kernel) == Verdict(False, doubt.read_text())
    os.utime(doubt, (0, 0))
    verdict = probe.kvm(engine.program, kernel)
    kept = [path for path in (tmp_path / "pykrun/kvm").iterdir() if path != doubt]
    assert bool(kept) == verdict.lasting


@pytest.mark.qemu
def test_a_program_that_is_none_is_no_lasting_verdict(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text("no program")
    program.chmod(0o755)
    verdict = probe.try_guest(program, guest.choose("qemu").kernel())
    assert not verdict.works
    assert not verdict.lasting


@pytest.mark.parametrize(
    ("said", "ended", "reason", "lasting"),
    [
        (b"qemu: error: failed to set MSR 0x10a\nqemu: Assertion failed\n", ABORTED, "failed to set MSR", True),
        (b"qemu: failed to initialize kvm: Operation not permitted\n", FAILED, "not permitted", True),
        (b"Linux version\nKernel panic - not syncing: Fatal exception\nCall Trace:\n", Ended(0), "Fatal", True),
        (b"", Ended(0), "it said nothing", True),
        (b"qemu: cannot set up guest memory 'mem': Cannot allocate memory\n", FAILED, "allocate memory", False),
        (b"qemu: failed to initialize kvm: Device or resource busy\n", FAILED, "busy", False),
        (b"Linux version\n", Ended(int(signal.SIGKILL)), "Linux version", False),
        (b"Linux version\n", Ended(None), "Linux version", False),
        (b"", Ended(None, "mount: Too many open files"), "mount: Too many", False),
        (b"", None, "it said nothing", False),
    ],
)
def test_an_end_is_the_guests_failure_or_the_hosts(
    said: bytes, ended: Ended | None, reason: str, lasting: bool
) -> None:
    verdict = judge_end(said, ended)
    assert not verdict.works
    assert reason in verdict.reason
    assert verdict.lasting == lasting


def test_only_the_panic_at_the_end_of_a_boot_counts() -> None:
    assert probe.ROOTLESS in b"[1.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n"
    assert probe.ROOTLESS not in b"[0.0] Kernel panic - not syncing: IO-APIC + timer doesn't work!\n"
