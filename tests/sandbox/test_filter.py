"""The system-call filter, on the kernel that has to obey it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pykrun.host.numbers import number
from pykrun.sandbox.filter import DENIED, assemble
from tests.sandbox.prison import ROOT

PROLOGUE = """
import ctypes, errno, os, socket, sys, threading
from pykrun.host import linux
from pykrun.host.numbers import number
from pykrun.sandbox.filter import DENIED, assemble
linux.set_no_new_privileges()
linux.install_filter(assemble(("ptrace",)))
libc = ctypes.CDLL(None, use_errno=True)
def call(nr, *args):
    result = libc.syscall(ctypes.c_long(nr), *map(ctypes.c_long, args))
    return ctypes.get_errno() if result < 0 else 0
"""


def filtered(code: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 0, (answer.returncode, answer.stderr)
    return answer.stdout.strip()


def test_every_denied_call_says_eperm() -> None:
    """-1 for every argument: a call that got through would say something else, and do nothing."""
    denied = [name for name in (*DENIED, "ptrace") if number(name) is not None]
    code = (
        "print([n for n in (*DENIED, 'ptrace') if number(n) is not None and call(number(n), *[-1] * 6) != errno.EPERM])"
    )
    assert filtered(code) == "[]"
    assert len(denied) > 50


def test_other_families_than_unix_are_denied() -> None:
    code = """
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, 38, 40):
    try:
        socket.socket(family, socket.SOCK_RAW if family == socket.AF_PACKET else socket.SOCK_DGRAM)
    except PermissionError:
        continue
    except OSError as error:
        print(family, error)
    else:
        print(family, "was granted")
socket.socket(socket.AF_UNIX).close()
"""
    assert filtered(code) == ""


@pytest.mark.parametrize("flag", ["NEWNS", "NEWUSER", "NEWPID", "NEWNET", "NEWIPC", "NEWUTS", "NEWCGROUP"])
def test_clone_makes_no_namespaces(flag: str) -> None:
    code = f"""
try:
    pid, _ = linux.clone(linux.CLONE_{flag})
    os._exit(0) if pid == 0 else print("granted")
except PermissionError:
    pass
"""
    assert filtered(code) == ""


def test_ordinary_life_goes_on() -> None:
    code = """
thread = threading.Thread(target=lambda: print("thread", flush=True))
thread.start(); thread.join()
if os.fork() == 0:
    os.execv("/bin/echo", ["echo", "child"])
os.wait()
"""
    assert filtered(code).split() == ["thread", "child"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="i386 calls exist on x86 only")
def test_calls_of_another_architecture_end_the_process() -> None:
    """int 0x80 with eax = 20 (getpid of i386) from a page of our own."""
    code = """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
if os.fork() == 0:
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert filtered(code) == "-31"  # SIGSYS


def test_program_is_short_enough_for_the_kernel_and_its_jumps() -> None:
    assert len(assemble(("ptrace",))) // 8 < 256
