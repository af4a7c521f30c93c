"""Tests of what only a kernel of one's own allows: run with `pytest examples/test_kernel.py` where pykrun is installed.

Each test below the marker runs as root in a VM of its own, over a read-only view of this machine: the same Python, the
same packages, this very file. Nothing that it does reaches the machine.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from pathlib import Path

import pytest

from pykrun.pytest_plugin import Factory


@pytest.mark.microvm
def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    """Mounting needs rights that no test should have on a developer's machine."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"tmpfs", os.fsencode(tmp_path), b"tmpfs", 0, b"size=64k") == 0
    with pytest.raises(OSError, match="No space left"):
        (tmp_path / "large").write_bytes(bytes(1 << 20))


@pytest.mark.microvm
def test_a_machine_with_another_name_and_another_clock() -> None:
    socket.sethostname("somewhere-else")
    assert os.uname().nodename == "somewhere-else"
    Path("/proc/sys/kernel/domainname").write_text("example.test")
    assert os.getpid() < 1000  # few processes were started in this machine yet


@pytest.mark.microvm(memory=128)
def test_how_the_machine_looks_from_inside() -> None:
    assert os.geteuid() == 0
    kib = int(Path("/proc/meminfo").read_text().split()[1])
    assert kib < 128 << 10


def test_a_service_beside_the_test(microvm: Factory) -> None:
    """The fixture starts VMs that end with the test."""
    vm = microvm(["/bin/cat"], root="/", read_only=True)
    out, _ = vm.communicate("hello\n", timeout=60)
    assert out == "hello\n"
    assert microvm.run(["/bin/uname", "-s"], root="/", read_only=True).stdout == subprocess.check_output(
        ["/bin/uname", "-s"], text=True
    )
