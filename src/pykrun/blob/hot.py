"""Which functions run when the blob only tells its version: the list in hot.txt, and how it was made.

The linker puts them side by side (layout.py), so that they fill a few pages in place of one each. The list is a hint: a
name that is gone does no harm, one that is new costs a page. `python3 -m pykrun.blob.hot` prints it anew, by running
the blob in single steps.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from bisect import bisect
from pathlib import Path

from pykrun.blob import lookup, recipe
from pykrun.blob.archive import provide
from pykrun.blob.image import make_snapshot
from pykrun.blob.toolchain import find_musl
from pykrun.errors import MissingError

_TRACEME, _PEEKUSER, _SINGLESTEP = 0, 3, 9
_RIP = 16 * 8  # sys/user.h: its place in struct user_regs_struct


def trace(program: Path, *arguments: str) -> set[int]:
    """Addresses of all instructions that the program executes. It gets one variable and no output."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.restype = ctypes.c_long
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        ptrace(_TRACEME, 0, None, None)
        os.execve(program, [str(program), *arguments], {"TERM": "linux"})
    seen = set()
    status = os.waitpid(pid, 0)[1]
    while os.WIFSTOPPED(status):
        if os.WSTOPSIG(status) != signal.SIGTRAP:
            os.kill(pid, signal.SIGKILL)
        seen.add(ptrace(_PEEKUSER, pid, _RIP, None))
        ptrace(_SINGLESTEP, pid, None, None)
        status = os.waitpid(pid, 0)[1]
    return seen


def functions(symbols: str, addresses: set[int]) -> set[str]:
    """Names of the functions that hold these addresses. `symbols` is what `nm -n` says."""
    table = [(int(fields[0], 16), fields[2]) for line in symbols.splitlines() if len(fields := line.split()) == 3]
    starts = [start for start, _ in table]
    return {table[at - 1][1] for address in addresses if (at := bisect(starts, address))}


def main() -> int:
    """Build a blob with its symbols, run it, print the list."""
    musl = find_musl()
    if musl is None:
        raise MissingError("the static musl toolchain is missing", "python3 -m pykrun.blob --packages lists it")
    with tempfile.TemporaryDirectory() as folder:
        work, log = Path(folder) / "stage", Path(folder) / "log"
        work.mkdir()
        link = tuple(word for word in musl.link if word != "-Wl,-s")
        core = provide(musl, log, lambda line: None)
        image = make_snapshot(lookup.GUEST_FOLDER, core, musl, work, log, link=link, start=recipe.START)
        symbols = subprocess.run(["nm", "-n", work / "stem"], capture_output=True, text=True, check=True).stdout
        print("\n".join(sorted(functions(symbols, trace(image, "--version")))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
